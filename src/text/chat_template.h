/* The chat template given to tokenizers trained here. */
#ifndef FM_TEXT_CHAT_TEMPLATE_H
#define FM_TEXT_CHAT_TEMPLATE_H

extern const char *const fmi_chat_template_v31;

#endif

/* Continues a text with a model: generate MODEL "once upon a time" [tokens]
 *
 *   cc generate.c $(pkg-config --cflags --libs --static fathom) -o generate */
#include <fathom.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool show(void *arg, const fm_piece *piece)
{
    (void)arg;
    fwrite(piece->text, 1, piece->n, stdout);
    fflush(stdout);
    return true; /* go on */
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: generate MODEL TEXT [TOKENS]\n");
        return 2;
    }
    const char *text = argv[2];
    long tokens = argc > 3 ? strtol(argv[3], NULL, 10) : 100;
    fm_exec *context = NULL;
    fm_model *model = NULL;
    fm_tokenizer *tokenizer = NULL;
    fm_session *session = NULL;
    fm_err err;
    fm_generated done;
    fm_model_opts how = {.precision = FM_DTYPE_BF16, .absorbed = true};
    fm_session_opts room = {.draft = FM_DRAFT_AUTO};
    fm_generate_opts ask = {.tokens_max = tokens, .temperature = 0.8, .top_p = 0.95, .fn = show};

    fm_status st = fm_context_open(NULL, NULL, 0, &context, &err);
    if (!st) st = fm_model_open(context, argv[1], &how, &model, &err);
    if (!st) st = fm_tokenizer_open(argv[1], &tokenizer, &err);
    if (!st) st = fm_session_open(model, tokenizer, &room, &session, &err);
    if (!st) st = fm_session_push_text(session, 0, text, strlen(text), FM_ENCODE_BOS, &err);
    if (!st) st = fm_session_generate(session, 0, &ask, &done, &err);
    if (st) fprintf(stderr, "generate: %s\n", err.text);
    else printf("\n[%lld tokens, %s]\n", (long long)done.n_tokens, fm_stop_name(done.stop));

    fm_session_close(session); /* each close takes NULL */
    fm_tokenizer_free(tokenizer);
    fm_model_close(model);
    fm_context_close(context);
    return st ? 1 : 0;
}

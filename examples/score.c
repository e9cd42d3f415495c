/* How well a model predicts a text read from standard input: score MODEL < text
 *
 *   cc score.c $(pkg-config --cflags --libs --static fathom) -o score
 *
 * Prints the text's tokens, their bytes and bits per byte. A text longer than the context is cut.
 */
#include <fathom.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static char text[1 << 20];

static fm_status score(fm_session *session, const fm_tokenizer *tokenizer, size_t bytes,
                       fm_err *err)
{
    fm_ids ids = {0};
    fm_status st = fm_tokenizer_encode(tokenizer, text, bytes, FM_ENCODE_BOS, &ids, err);
    size_t n = ids.n, context = (size_t)fm_session_context(session);
    if (n > context) n = context;
    float *logprob = calloc(n + 1, sizeof *logprob);
    if (!logprob) exit(1);
    if (!st) st = fm_session_push_ids(session, 0, ids.data, n, err);
    if (!st) st = fm_session_score(session, 0, 1, logprob, err);
    if (!st && n > 1) {
        double nats = 0;
        size_t scored = 0, len = 0;
        for (size_t i = 1; i < n; i++) { /* token 0 has nothing before it */
            nats -= logprob[i - 1];
            if (fm_tokenizer_token_bytes(tokenizer, ids.data[i], &len)) scored += len;
        }
        printf("tokens %zu  bytes %zu  nats per token %.4f  bits per byte %.4f\n", n - 1, scored,
               nats / (double)(n - 1), nats / log(2) / (double)scored);
    }
    free(logprob);
    fm_ids_deinit(&ids);
    return st;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: score MODEL < text\n");
        return 2;
    }
    fm_exec *context = NULL;
    fm_model *model = NULL;
    fm_tokenizer *tokenizer = NULL;
    fm_session *session = NULL;
    fm_err err;
    fm_model_opts how = {.precision = FM_DTYPE_BF16, .absorbed = true};

    size_t bytes = fread(text, 1, sizeof text, stdin);
    fm_status st = fm_context_open(NULL, NULL, 0, &context, &err);
    if (!st) st = fm_model_open(context, argv[1], &how, &model, &err);
    if (!st) st = fm_tokenizer_open(argv[1], &tokenizer, &err);
    if (!st) st = fm_session_open(model, tokenizer, NULL, &session, &err);
    if (!st) st = score(session, tokenizer, bytes, &err);
    if (st) fprintf(stderr, "score: %s\n", err.text);

    fm_session_close(session);
    fm_tokenizer_free(tokenizer);
    fm_model_close(model);
    fm_context_close(context);
    return st ? 1 : 0;
}

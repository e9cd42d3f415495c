/* Configurations: what is accepted passes the check, has a layout whose sizes add up, finite
 * tables, and comes back the same from its own settings; what is refused says why. */
#include <math.h>

#include "check.h"
#include "model/count.h"

#define TENSORS_MAX 20000 /* larger layouts are right, but slow to make so often */

static void use(const fm_config *c)
{
    fm_layout l;
    fm_err err;
    fmi_param_counts n;
    fmi_flops f;
    double cosv[64], sinv[64];
    FUZZ_CHECK(fmi_config_check(c, &err) == FM_OK);
    double scale = fmi_config_softmax_scale(c);
    FUZZ_CHECK(scale >= 0 && !isnan(scale));
    if (c->qk_rope_head_dim <= 64) fmi_config_rope(c, 2, cosv, sinv);
    if ((int64_t)c->num_hidden_layers * (3 * (int64_t)c->n_routed_experts + 20) > TENSORS_MAX) return;
    fm_status st = fmi_layout_new(c, &l, &err);
    FUZZ_CHECK(!st || st == FM_E_NOMEM);
    if (st) return;
    fmi_count_params(c, &l, &n);
    fmi_count_flops(c, &l, c->max_position_embeddings, &f);
    FUZZ_CHECK(n.total > 0 && n.active > 0 && n.active <= n.total && n.mtp_total >= 0);
    FUZZ_CHECK(f.forward > 0 && isfinite(f.training));
    for (int i = 0; i < l.n_params; i += 1 + l.n_params / 16)
        FUZZ_CHECK(fmi_layout_find(&l, l.params[i].name) == i);
    fmi_layout_free(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fm_err err;
    fm_config c;
    fm_status st = fmi_config_parse("input", (const char *)data, size, &c, &err);
    if (st) fuzz_check_failure(st, &err, "input");
    else use(&c);
    return 0;
}

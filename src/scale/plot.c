/* placeholder */
#include "fit.h"
fm_status fm_scale_plot(const fm_scale_fit *f, const char *dir, fm_err *err)
{
    (void)f;
    return FM_FAIL(err, FM_E_UNSUPPORTED, "%s", dir);
}

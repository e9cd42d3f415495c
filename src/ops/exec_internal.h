/* What exec.c and the devices share: the context's insides and the calls of a device.
 *
 * exec.c owns errors, the operator table, profiling and the floating-point mode; a device owns
 * memory and decides when an issued operator runs (it calls fmi_exec_run). An error sticks until
 * fm_read, fm_write or fm_sync has reported it; operators issued in between are dropped, so that
 * none works on what a failed one left. */
#ifndef FM_OPS_EXEC_INTERNAL_H
#define FM_OPS_EXEC_INTERNAL_H

#include "ops/ops.h"

/* Room for any operator's arguments. */
typedef union fmi_op_args {
#define FMI_OP_MEMBER(name, first) fm_##name##_args name;
    FM_OP_LIST(FMI_OP_MEMBER)
#undef FMI_OP_MEMBER
} fmi_op_args;

typedef struct fmi_op_desc {
    const char *name;
    size_t args_bytes;
    int n_ptrs;               /* leading device pointers in the argument struct */
} fmi_op_desc;

extern const fmi_op_desc fmi_op_descs[FM_OP_COUNT];

typedef struct fmi_device {
    const char *name;
    bool fence;
    fm_status (*open)(fm_exec *x, fm_err *err);
    void (*close)(fm_exec *x);
    /* Zeroed, 256-byte aligned; *granted is what dev_free will report back for the address. */
    fm_status (*alloc)(fm_exec *x, size_t bytes, void **out, size_t *granted, fm_err *err);
    size_t (*dev_free)(fm_exec *x, void *dev);
    void *(*borrow)(fm_exec *x, const void *host);
    /* Host address behind n bytes of device memory; NULL when they are not device memory. */
    void *(*resolve)(fm_exec *x, const void *dev, size_t bytes);
    void (*issue)(fm_exec *x, fm_op_id id, const void *args);
    void (*drain)(fm_exec *x); /* runs what is queued */
} fmi_device;

extern const fmi_device fmi_device_cpu, fmi_device_fence;

struct fm_exec {
    const fmi_device *dev;
    void *dev_state;
    fmi_pool *pool;
    fm_isa isa;
    fm_ops ops;
    fm_kernel_ctx kernel;
    char **scratch;            /* [n_threads] */
    fm_err first;              /* code FM_OK: nothing failed since the last report */
    int64_t reads;
    size_t bytes, bytes_peak;
    bool profile;
    double seconds[FM_OP_COUNT];
    int64_t calls[FM_OP_COUNT];
};

/* Runs an operator now, on host addresses, with FTZ and DAZ set on this thread. */
void fmi_exec_run(fm_exec *x, fm_op_id id, const void *args);

#endif

/* Includes REF_BODY (a .inc file of templates) once for each activation dtype. No include guard.
 *
 * A body sees: A and F (element types), SUF(name), LD(p) a value of A as F, ST(v) a value of F as
 * A, FMA, EXP, LOG, SQRT, SIGMOID, RE (the real part, for comparisons), REAL (its type) and
 * IS_BF16. With REF_REAL_ONLY only float and double are made. */
#include "ops/ref/num.h"

#define REF_CAT_(a, b) a##_##b
#define REF_CAT(a, b) REF_CAT_(a, b)
#define SUF(name) REF_CAT(name, INST)

/* float activations */
#define INST f32
#define A float
#define F float
#define REAL float
#define IS_BF16 0
#define LD(p) (*(p))
#define ST(v) (v)
#define FMA ref_fma_f
#define EXP fmi_expf
#define LOG fmi_logf
#define SQRT __builtin_sqrtf
#define SIGMOID ref_sigmoid_f
#define RE(v) (v)
#include REF_BODY
#undef INST
#undef A
#undef IS_BF16
#undef LD
#undef ST

/* bf16 activations, float everywhere else */
#ifndef REF_REAL_ONLY
#define INST bf16
#define A fm_bf16
#define IS_BF16 1
#define LD(p) ref_bf16_load(p)
#define ST(v) ref_bf16_store(v)
#include REF_BODY
#undef INST
#undef A
#undef IS_BF16
#undef LD
#undef ST
#endif
#undef F
#undef REAL
#undef FMA
#undef EXP
#undef LOG
#undef SQRT
#undef SIGMOID

/* double */
#define IS_BF16 0
#define LD(p) (*(p))
#define ST(v) (v)
#define INST f64
#define A double
#define F double
#define REAL double
#define FMA ref_fma_d
#define EXP exp
#define LOG log
#define SQRT sqrt
#define SIGMOID ref_sigmoid_d
#include REF_BODY
#undef INST
#undef A
#undef F
#undef FMA
#undef EXP
#undef LOG
#undef SQRT
#undef SIGMOID
#undef RE

/* double complex */
#ifndef REF_REAL_ONLY
#define INST c128
#define A double complex
#define F double complex
#define FMA ref_fma_c
#define EXP cexp
#define LOG clog
#define SQRT csqrt
#define SIGMOID ref_sigmoid_c
#define RE(v) creal(v)
#include REF_BODY
#undef INST
#undef A
#undef F
#undef FMA
#undef EXP
#undef LOG
#undef SQRT
#undef SIGMOID
#undef RE
#endif
#undef REAL
#undef IS_BF16
#undef LD
#undef ST
#undef SUF
#undef REF_CAT
#undef REF_CAT_
#undef REF_BODY

/* The parts of `fathom scale`. cmd_scale.c finds the part and calls it with argv[0] the part's name
 * ("design", ..); each returns an exit code. The study's parts stand in cmd_scale_study.c; one that
 * is not part of the build is weak and absent, and is not shown. */
#ifndef FM_SCALE_CLI_H
#define FM_SCALE_CLI_H

#include "cli.h"

int cmd_scale_design(int argc, char **argv) __attribute__((weak));
int cmd_scale_run(int argc, char **argv) __attribute__((weak));
int cmd_scale_compare(int argc, char **argv) __attribute__((weak));

#endif

"""Flags that say how closely a training run is looked at; no run depends on them."""

from absl import flags

PROFILE_STEPS = flags.DEFINE_list(
    "profile_steps",
    None,
    "a,b: a trace of steps a to b for TensorBoard's profiler, in the workdir's profile/.",
)
DRY_RUN = flags.DEFINE_boolean(
    "dry_run",
    False,
    "Whether --mode=train only prepares the data, says what the run will cost (parameters, "
    "operations, memory, time by ten measured steps) and writes nothing else.",
)

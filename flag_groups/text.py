"""Flags of the modes that write or score text."""

from absl import flags

PROMPT = flags.DEFINE_string(
    "prompt",
    "",
    "The text that --mode=generate continues; empty: the beginning of a text. See --input_file.",
)
NUM_TOKENS = flags.DEFINE_integer("num_tokens", 100, "Tokens to write.", lower_bound=1)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Texts to write of a prompt.", lower_bound=1)
REPETITION_PENALTY = flags.DEFINE_float(
    "repetition_penalty",
    1.0,
    "Multiplies the log-probabilities of tokens that the text has already; 1: none.",
    lower_bound=1.0,
)
STOP = flags.DEFINE_multi_string(
    "stop", [], "Where a text ends: at <eos>, or at a string; may be given several times."
)
DETOKENIZE = flags.DEFINE_boolean(
    "detokenize", True, "Whether words are written as in print: no spaces before commas, no @-@."
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Divides log-probabilities; 0: always the likeliest.", lower_bound=0.0
)
TOP_K = flags.DEFINE_integer("top_k", 0, "Draw from the k likeliest; 0: all.", lower_bound=0)
TOP_P = flags.DEFINE_float(
    "top_p",
    1.0,
    "Draw from the fewest tokens whose probabilities add up to p; 1: all.",
    lower_bound=0.0,
    upper_bound=1.0,
)

INPUT_FILE = flags.DEFINE_string(
    "input_file",
    None,
    "The text that --mode=score and --mode=explore read; default: standard input. The prompts of "
    "--mode=generate, one a line; default: --prompt. - is standard input.",
)
SCORE_CONTEXT = flags.DEFINE_boolean(
    "score_context", True, "Whether --mode=score scores a line after all before it, or alone."
)
SCORE_FORMAT = flags.DEFINE_enum(
    "score_format", "tsv", ("tsv", "jsonl"), "What --mode=score writes to standard output."
)
# Of what writes text; a run's sample has settings of its own.
OF_WRITING = (
    PROMPT,
    NUM_TOKENS,
    NUM_SAMPLES,
    REPETITION_PENALTY,
    STOP,
    DETOKENIZE,
    TEMPERATURE,
    TOP_K,
    TOP_P,
)

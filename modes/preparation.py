"""--mode=prepare: prepares a corpus and reports what it has."""

import flags
from data_utils import preparation_report
from modes.run_inputs import chosen_cutoffs, given_weights, prepared
from modes.terminal import say
from transformer_xl.training.devices import resolve_precision


def set_up():
    """Checks what can be checked; returns what runs then."""
    directory, train_config = flags.workdir(), flags.train_config()
    _, vocabulary = given_weights(resolve_precision(train_config))
    model_config = flags.model_config()
    say(f"run directory {directory}")
    data = prepared(directory, vocabulary, say)
    chosen = chosen_cutoffs(data, model_config, train_config, say)
    report = preparation_report(data, flags.model_config(data.vocabulary.size, chosen).cutoffs)
    return lambda: say(f"\n{report}")

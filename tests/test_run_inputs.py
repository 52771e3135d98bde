"""What the modes take from a recorded run: its flags, its settings, its text, its vocabulary."""

import json

import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver

import flags
from data_utils import CharacterVocabulary, GivenVocabulary, WordVocabulary
from modes.run_inputs import recorded_run, run_vocabulary
from transformer_xl import ModelConfig, TrainConfig
from transformer_xl.training.workdir import RunRecord, read_record

VOCABULARY = WordVocabulary.from_counts({"a": 9, "b": 7, "c": 5, "<eos>": 3})
DATA = {"corpus": "text", "fingerprint": "x"}


@pytest.fixture
def directory(tmp_path):
    """Of a run on a text, as far as modes read it before they load weights."""
    RunRecord(ModelConfig(VOCABULARY.size), TrainConfig(), DATA).write(str(tmp_path))
    VOCABULARY.save(tmp_path / "vocabulary")
    with flagsaver.flagsaver():
        absl_flags.FLAGS(["train.py", f"--workdir={tmp_path}", "--corpus=text", "--data_dir=here"])
        (tmp_path / "flags.txt").write_text(flags.as_flagfile())
    return tmp_path


def read(directory, *arguments):
    """The mode's view of a run, and what --data_dir then is."""
    with flagsaver.flagsaver():
        absl_flags.FLAGS(["train.py", "--mode=eval", f"--workdir={directory}", *arguments])
        return recorded_run(), flags.DATA_DIR.value


def test_a_runs_flags_stand_in(directory, monkeypatch):
    (found, record), text = read(directory)
    assert (found, text) == (str(directory), "here")
    assert record.data == DATA
    # The same once more, also where a path is written in another way.
    monkeypatch.chdir(directory)
    read(directory, f"--data_dir={directory}/here", "--corpus=text", "--nolowercase")


def test_what_a_runs_vocabulary_is_without_its_flags_may_be_said(directory):
    read(directory, "--vocabulary=word")
    # That of given weights may be of another kind than the corpus' own.
    CharacterVocabulary.from_counts({"a": 9, "b": 7}).save(directory / "vocabulary")
    read(directory, "--vocabulary=character")
    with pytest.raises(ValueError, match="vocabulary is character there, word now"):
        read(directory, "--vocabulary=word")


def test_the_corpus_own_least_count_may_be_said(directory):
    read(directory, "--vocabulary_min_count=3")
    CharacterVocabulary.from_counts({"a": 9, "b": 7}).save(directory / "vocabulary")
    read(directory, "--vocabulary_min_count=1")
    # That of given weights has none.
    GivenVocabulary(["<eos>", "<unk>"], [0, 0]).save(directory / "vocabulary")
    with pytest.raises(ValueError, match="vocabulary_min_count is not given there, 3 now"):
        read(directory, "--vocabulary_min_count=3")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--data_dir=there", "data_dir is here there, there now"),
        ("--corpus=ptb", "corpus is text there, ptb now"),
        ("--vocabulary=byte", "vocabulary is word there, byte now"),
        ("--vocabulary_min_count=2", "vocabulary_min_count is 3 there, 2 now"),
        ("--vocabulary_size=9", "vocabulary_size is not given there, 9 now"),
        ("--lowercase", "lowercase is false there, True now"),
    ],
)
def test_another_text_than_the_runs_is_refused(directory, argument, message):
    with pytest.raises(ValueError, match=f"{message}. Leave these flags out.*--init_from"):
        read(directory, argument)


def test_a_flag_of_another_version_is_left_out_with_a_warning(directory, capsys):
    with open(directory / "flags.txt", "a") as file:
        file.write("\n# a comment\n--of_tomorrow=3\n--nonsense\n")
    assert read(directory)[1] == "here"
    message = "has flags that this version does not know, and leaves out: of_tomorrow, nonsense\n"
    assert capsys.readouterr().err == f"warning: {directory}/flags.txt {message}"


def test_flags_that_cannot_be_read(directory):
    with open(directory / "flags.txt", "a") as file:
        file.write("--max_steps=many\n")
    with pytest.raises(ValueError, match=r"flags\.txt: .*max_steps=many"):
        read(directory)
    (directory / "flags.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no \S+flags\.txt. Bring it back from"):
        read(directory)


def test_a_record_of_another_version(directory):
    record = json.loads((directory / "config.json").read_text())
    record["model"]["num_towers"] = record["train"]["mood"] = 2
    (directory / "config.json").write_text(json.dumps(record))
    message = "this version does not know model.num_towers, train.mood, so that another one"
    with pytest.raises(ValueError, match=f"config.json, which .*cannot be read: {message}"):
        read_record(str(directory))


def test_no_name_of_a_directory():
    with (
        flagsaver.flagsaver(workdir=""),
        pytest.raises(ValueError, match="--workdir must be a folder. Received: nothing"),
    ):
        flags.workdir()


OTHERS = {
    "fewer": ({"a": 9, "<eos>": 3}, "Received: 3 tokens, where the model has 5"),
    "in another order": ({"a": 9, "b": 7, "c": 8, "<eos>": 3}, "as many tokens, but others or"),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("recorded", [True, False])
def test_another_vocabulary_than_the_models_is_refused(directory, recorded, other):
    """Also of runs that did not record theirs, by the one of the prepared text."""
    more = {"vocabulary": VOCABULARY.fingerprint()} if recorded else {}
    record = RunRecord(ModelConfig(VOCABULARY.size), TrainConfig(), {**DATA, **more})
    assert run_vocabulary(str(directory), record).tokens == VOCABULARY.tokens
    if not recorded:
        (directory / "data").mkdir()
        VOCABULARY.save(directory / "data" / "vocabulary.txt")
    counts, message = OTHERS[other]
    WordVocabulary.from_counts(counts).save(directory / "vocabulary")
    with pytest.raises(ValueError, match=f"must be the vocabulary.*{message}.*vocabulary.txt is"):
        run_vocabulary(str(directory), record)


def test_a_record_is_compared_in_what_is_known(tmp_path):
    record = RunRecord(ModelConfig(5), TrainConfig(), {**DATA, "vocabulary": "y"})
    record.check_data("run", DATA)
    with pytest.raises(ValueError, match="holds a run on other data"):
        record.check_data("run", {**DATA, "fingerprint": "z"})

"""What `benchmarks.softmax` found, as text."""

NAMES = {
    "full": "full softmax (Dense)",
    "chunked": "AdaptiveSoftmax, no cutoffs",
    "adaptive": "AdaptiveSoftmax",
    "sampled": "SampledSoftmax (estimate)",
    "torch": "torch, adaptive",
    "torch_bfloat16": "torch, adaptive, bfloat16",
    "keras_adaptive_softmax": "keras-adaptive-softmax",
}
COLUMNS = ("forward", "backward", "forward + backward", "speed-up", "peak memory", "loss")
WIDTHS = (12, 12, 20, 11, 13, 9)
LEFT = max(map(len, NAMES.values())) + 2


def format_cell(cell: dict) -> str:
    """One size: a row for each method, those that were not measured included."""
    clusters = " / ".join(f"{size:,}" for size in cell["cluster_sizes"])
    shares = " / ".join(f"{share:.0%}" for share in cell["cluster_shares"])
    lines = [
        f"V = {cell['vocab_size']:,}, T = {cell['tokens']:,}; clusters of {clusters} words have "
        f"{shares} of the targets",
        " " * LEFT + "".join(name.rjust(width) for name, width in zip(COLUMNS, WIDTHS)),
    ]
    for name, result in cell["methods"].items():
        lines.append(NAMES[name].ljust(LEFT) + _row(result))
    return "\n".join(lines)


def format_highlight(cell: dict, settings: dict) -> str:
    """How much longer the others take than `AdaptiveSoftmax`, at the largest vocabulary."""
    cutoffs = ", ".join(f"{cutoff:,}" for cutoff in cell["cutoffs"])
    lines = [
        f"V = {cell['vocab_size']:,}, D = {settings['hidden_dim']:,}, T = {cell['tokens']:,}, "
        f"cutoffs {cutoffs}, div_val {settings['div_val']}, XLA "
        f"{'on' if settings['jit_compile'] else 'off'}, {dtype_text(settings)}",
    ]
    for what, title in (("step", "forward + backward"), ("fit", "one step of fit, SGD")):
        lines.append(f"  {title}")
        for name, result in cell["methods"].items():
            if what == "fit" and name not in ("full", "adaptive"):
                continue
            lines.append(f"    {NAMES[name].ljust(LEFT)}{_against_ours(result, cell, what)}")
    return "\n".join(lines)


def ratio(cell: dict, above: str, below: str, what: str = "step") -> float | None:
    """How many times as long one method's median is as another's; None if one was not measured."""
    key = f"{what}_seconds"
    above, below = (cell["methods"].get(name, {}).get(key) for name in (above, below))
    return above["median"] / below["median"] if above and below else None


def short_reason(result: dict) -> str:
    """Why a method was not measured, in a few words."""
    if result["status"] == "not installed":
        return "not installed"
    reason = result["reason"]
    signs = ("OOM", "ResourceExhausted", "MemoryError", "allocate", "Out of memory", "SIGKILL")
    return "failed: " + ("out of memory" if any(sign in reason for sign in signs) else reason)


def dtype_text(settings: dict) -> str:
    """The dtype of the products."""
    dtype = settings["dtype"]
    return dtype if dtype == "float32" else f"{dtype} (peers float32)"


def milliseconds(seconds: float) -> str:
    """Three digits, or all before the point."""
    value = 1e3 * seconds
    return f"{value:,.0f} ms" if abs(value) >= 99.95 else f"{value:.3g} ms"


def megabytes(number: float) -> str:
    """Millions of bytes."""
    return f"{number / 1e6:,.0f} MB"


def _row(result):
    if result["status"] != "ok":
        return "  " + short_reason(result)
    times = [
        milliseconds(result[f"{what}_seconds"]["median"])
        for what in ("forward", "backward", "step")
    ]
    speedup = result["speedup"]
    values = [
        *times,
        "" if speedup is None else f"{speedup:.2f}x",
        megabytes(result["peak_memory_bytes"]),
        f"{result['step_loss']:.3f}",
    ]
    return "".join(value.rjust(width) for value, width in zip(values, WIDTHS))


def _against_ours(result, cell, what):
    if result["status"] != "ok":
        return short_reason(result)
    median = result[f"{what}_seconds"]["median"]
    text = milliseconds(median).rjust(10)
    ours = cell["methods"].get("adaptive", {})
    if result is ours or ours.get("status") != "ok":
        return text
    return f"{text}   {median / ours[f'{what}_seconds']['median']:.2f} times AdaptiveSoftmax"

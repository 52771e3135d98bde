"""The random models of HuggingFace's TransfoXL that checkpoints are tested with."""

BATCH, LENGTH, SEGMENTS = 2, 5, 4
SIZES = dict(
    vocab_size=53,
    cutoffs=[11, 29],
    d_model=16,
    d_embed=16,
    n_head=2,
    d_head=8,
    d_inner=20,
    n_layer=2,
    mem_len=7,
    clamp_len=-1,
    same_length=False,
    dropout=0.0,
)
CASES = {
    f"div{div_val}_{name}": dict(div_val=div_val, proj_share_all_but_first=name == "tied")
    for div_val in (1, 2, 4)
    for name in ("tied", "untied")
}
# At div_val 1 there are projections only where the embedding is narrower.
CASES["div1_tied"]["d_embed"] = CASES["div1_untied"]["d_embed"] = 12
CASES["div1_wide"] = dict(div_val=1)
CASES["shared_biases"] = dict(div_val=2, untie_r=False, same_length=True, clamp_len=4)
# Keras' version has neither div_val 1 nor shared biases.
KERAS_CASES = [case for case in CASES if case.startswith(("div2", "div4"))]

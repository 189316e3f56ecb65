"""Which array of a file of several holds the latents."""

from collections.abc import Mapping

from tiler.errors import InputError
from tiler.sources.input_file import printable

KNOWN_KEYS = ("latent_tensor", "latents", "latent", "samples")
"""What ComfyUI, diffusers scripts and others call them; the first that is there is taken."""
N_NAMED = 8
"""Most names in a message."""


def choose_key(shapes: Mapping[str, tuple[int, ...]], key: str | None, *, name: str) -> str:
    """Return the key of the latents: what is asked for, the only array of 3 or 4 axes (else of 5), or a known name.

    Args:
        shapes: the shape of each array by its key.
        key: what is asked for.
        name: what to call the file in a message.

    Raises:
        InputError: it is not there, or cannot be told.
    """
    if key is not None:
        if key in shapes:
            return key
        raise InputError(
            f"No such array: {name}, key={printable(key)}. There is {describe_keys(shapes)}. Change --key."
        )
    full = {each: shape for each, shape in shapes.items() if shape and min(shape) > 0}
    # Of five axes where that has a known name, or there is no other: no other is taken in its place.
    videos = [each for each, shape in full.items() if len(shape) == 5]
    named = [each for each in videos if each.rpartition(".")[2] in KNOWN_KEYS]
    candidates = [each for each, shape in full.items() if len(shape) in (3, 4)] + named or videos
    if len(candidates) == 1:
        return candidates[0]
    for known in KNOWN_KEYS:
        # Inside of other dictionaries only where it is the only one.
        inside = [each for each in candidates if each.rpartition(".")[2] == known]
        if known in candidates or len(inside) == 1:
            return known if known in candidates else inside[0]
    if not candidates:
        raise InputError(f"No latents: {name}. No array of 3 to 5 axes; there is {describe_keys(shapes)}.")
    if all(each.endswith((".weight", ".bias")) for each in shapes):
        raise InputError(f"Weights, not latents: {name}. There is {describe_keys(shapes)}. Give them as --weights.")
    raise InputError(f"Several arrays: {name}. There is {describe_keys(shapes)}. Choose one with --key.")


def describe_keys(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the first few arrays of a file in words."""
    named = [f"{printable(key)} {str(tuple(shape))[:60]}" for key, shape in list(shapes.items())[:N_NAMED]]
    more = [f"{len(shapes) - N_NAMED} more"] if len(shapes) > N_NAMED else []
    return ", ".join(named + more) or "nothing"

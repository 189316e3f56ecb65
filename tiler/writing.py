"""A decoded image on its way into a file: where image, plan, output and job are put together."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tiler import models
from tiler.checks.verification import Samples
from tiler.errors import Option, OptionError, VerificationError
from tiler.fields import Fields
from tiler.formats.output_file import OutputFile
from tiler.formats.places import check_apart
from tiler.formats.register import describe_output
from tiler.jobs.job import Executor, Job
from tiler.jobs.schedule import Progress
from tiler.latents import Latents
from tiler.model import Model
from tiler.models import PathLike, load_same_model
from tiler.opened_latents import OpenedLatents
from tiler.options import checked
from tiler.phase import REPORT
from tiler.planning import check_place, tell_memory
from tiler.profile import Profile
from tiler.report import Report, describe_report, run_and_report
from tiler.sources.metadata import take_along
from tiler.sources.ranges import check_range
from tiler.sources.source import fingerprint_source
from tiler.verifying import verify_output

if TYPE_CHECKING:
    import distributed


def check_file(file: OutputFile, latents: Latents, weights: PathLike | None, *, overwrite: bool, resume: bool) -> None:
    """Refuse a file that could not be written, before anything is read.

    Raises:
        OptionError: it is one of the inputs.
        OutputExistsError: it exists and may not be replaced.
        InputError: it cannot be there.
    """
    check_apart(Path(file.path), {"latents": latents.data, "weights": weights})
    check_place(file, overwrite=overwrite, resume=resume)


@checked()
def write_image(
    image: OpenedLatents,
    output: PathLike | OutputFile,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    force: bool = False,
    keep_metadata: bool = False,
    verify: Samples | None = None,
    progress: Progress | None = None,
    profile: Profile | None = None,
    client: "distributed.Client | None" = None,
    started: float | None = None,
) -> Report:
    """Write an image to a file; all but ``started``, when the call began, is as for ``tiler.decode``."""
    started = started or time.monotonic()
    latents, file = image.latents, describe_output(output)
    check_file(file, latents, image.weights, overwrite=overwrite, resume=resume)
    executor: Executor | None = None
    if client is not None:
        from tiler.jobs.cluster import Cluster

        if workers is not None:
            raise OptionError(
                f"A cluster's workers have their own threads: workers={workers}. Leave {Option('workers')} out."
            )
        latents, file = name_for_others(latents, file)
        executor = Cluster(client)
        workers = executor.n_threads
    if verify is not None:
        if image.precision != "float32":
            raise OptionError(
                f"Only float32 is exact: verify={verify}, precision={image.precision}. Leave one of them out."
            )
        file.check_verifiable()
    plan = image.plan_for(file, workers, resume=resume)
    metadata, said = take_along(latents.data, keep=keep_metadata)
    said += (*tell_memory(plan, image.memory_bytes), *image.source.notes)
    planned = file.plan(plan, overwrite=overwrite, metadata=metadata)
    check_range(image.source.unscaled)
    path, precision, engine, sha256 = image.weights_file, image.precision, image.engine, image.weights_sha256
    model: Callable[[], Model] = partial(models.load_model, path, "decoder", precision, file.dtype, engine)
    if executor is not None:
        weights = image.weights
        given = weights if weights is not None and not Path(weights).exists() else path.absolute()
        model = partial(load_same_model, given, "decoder", precision, sha256, file.dtype, engine)
    axes = image.source.axes
    inputs: Fields = {
        "latents": fingerprint_source(image.source),
        "weights": sha256,
        **({} if axes is None else {"axes": axes}),
        **latents.fields,
        "precision": precision,
        "engine": engine,
    }
    job = Job(
        planned,
        plan,
        image.source,
        inputs,
        model,
        {"weights file": path.name},
        resume=resume,
        force=force,
        profile=profile or Profile(),
        open_source=partial(latents.open, image.network, convention=image.convention),
    )
    if axes and axes.endswith("C"):
        # Pipelines have the channels first: who has them last should know that this was seen.
        said += (f"the latents were read as {axes}, channels last",)
    report = run_and_report(job, progress, started, executor)
    report = replace(report, n_replaced=len(image.replaced), notes=(*report.notes, *said))
    REPORT.info(describe_report(report))
    if verify is None:
        return report
    verification = verify_output(planned.path, lambda _: image, verify)
    if not verification.ok:
        raise VerificationError(verification.verdict)
    return replace(report, verification=verification)


def name_for_others(latents: Latents, file: OutputFile) -> tuple[Latents, OutputFile]:
    """Return latents and output by names that processes in other folders understand."""
    if not isinstance(latents.data, str | os.PathLike):
        raise OptionError(
            f"A cluster's workers read latents from a file: latents={type(latents.data).__name__}. Save them with "
            "numpy.save where all can read them, and name that file."
        )
    if latents.nonfinite != "error":
        raise OptionError(
            f"On a cluster nobody counts what is replaced: nonfinite={latents.nonfinite}. Use error, or no cluster."
        )
    return replace(latents, data=Path(latents.data).absolute()), replace(file, path=Path(file.path).absolute())

"""``mtzoo report``: the paper's Table II and Figs. 3, 4 and 6 of trained models, a command each."""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtzoo.errors import MtzooError

if TYPE_CHECKING:
    from mtzoo.evaluation.metrics import Protocol
    from mtzoo.evaluation.perceptual import Lpips
    from mtzoo.evaluation.scores import Progress, Scores
    from mtzoo.interfaces import Model, PairDataset


# What each use is called in the paper, and what it takes beside a model, data and a place.
USES = {
    "table2": (
        "Table II: SSIM and PSNR of the best of sampled motions, and how far the samples differ; "
        "a line a model",
        ("models", "scores", "lpips"),
    ),
    "fig3": (
        "Fig. 3: the motions of source videos on target pictures",
        ("sheets", "transfers"),
    ),
    "fig4": (
        "Fig. 4: motions drawn for one picture, and the drawn one of best SSIM",
        ("sheets", "protocol", "draws"),
    ),
    "fig6": (
        "Fig. 6: SSIM and PSNR over time of a model and its ablations",
        ("models", "scores"),
    ),
}
PAGE = "Table II and Figs. 3, 4 and 6 on one page of HTML that needs no other file"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its uses."""
    about = "Make the paper's tables and figures from trained models."
    parser = subparsers.add_parser("report", help=about, description=about)
    uses = parser.add_subparsers(dest="use", metavar="USE", required=True)
    for use, (about, takes) in USES.items():
        _add_options(uses.add_parser(use, help=about, description=f"{about}."), takes)
    takes = tuple(dict.fromkeys(group for _, groups in USES.values() for group in groups))
    _add_options(uses.add_parser("page", help=PAGE, description=f"{PAGE}."), takes)


def _add_options(parser: argparse.ArgumentParser, takes: tuple[str, ...]) -> None:
    """The options of one use, in groups, so that the page takes what its parts take."""
    from mtzoo.cli import _use

    several = "; once a model, the full one first" if "models" in takes else ""
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="[NAME=]DIR",
        help="run folder of fit, or weights folder, and what to call the model (the folder's "
        f"name){several}",
    )
    _use.add_data(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    if "scores" in takes or "protocol" in takes:
        _use.add_protocol(parser)
        parser.add_argument(
            "--samples", type=int, metavar="N", help="motions drawn a video (the protocol's)"
        )
    if "scores" in takes:
        parser.add_argument(
            "--videos",
            type=int,
            default=256,
            metavar="N",
            help="test videos scored at most, of stores windows from all over the split (256)",
        )
    if "lpips" in takes:
        _use.add_lpips(parser)
    if "sheets" in takes:
        parser.add_argument(
            "--columns", type=int, default=8, metavar="N", help="frames shown of a video (8)"
        )
    if "transfers" in takes:
        parser.add_argument(
            "--sources", type=int, default=2, metavar="N", help="source videos of Fig. 3 (2)"
        )
        parser.add_argument(
            "--targets", type=int, default=3, metavar="N", help="target pictures of Fig. 3 (3)"
        )
    if "draws" in takes:
        parser.add_argument(
            "--pictures", type=int, default=2, metavar="N", help="pictures moved in Fig. 4 (2)"
        )
        parser.add_argument(
            "--shown", type=int, default=3, metavar="N", help="samples shown beside the best (3)"
        )
        parser.add_argument(
            "--fps", type=float, default=8.0, metavar="F", help="rate of Fig. 4's GIF (8)"
        )
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="of the samples (0)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (auto)"
    )
    parser.set_defaults(func=run, takes=takes)


def run(args: argparse.Namespace) -> int:
    """Check, load, make, and write one folder whole; returns the exit status."""
    from mtzoo.files import check_new_folder, making_folder

    _check(args)
    output = check_new_folder(args.output)
    session = _Session(args)
    with making_folder(output) as folder:
        if args.use == "page":
            _page(session, folder)
        else:
            MAKERS[args.use](session, folder)
        made = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    for name in made:
        print(output / name)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse, before anything is loaded, what cannot work."""
    from mtzoo.cli import _use

    given = vars(args)
    for option in ("videos", "samples", "columns", "sources", "targets", "pictures", "shown"):
        if option in given:
            most = {"videos": 1_000_000, "samples": 1000}.get(option, 64)
            _use.check_count(f"--{option}", given[option], most)
    _use.check_rate(given.get("fps"))
    _use.check_seed(args.seed)
    if len(args.model) > 1 and "models" not in args.takes:
        raise MtzooError(f"report {args.use} shows one model; give one --model")


@dataclass(frozen=True)
class _Loaded:
    """A model with what to say of it."""

    name: str
    folder: str
    model: Model
    weights_sha256: str


class _Session:
    """What all uses share: the models, the data, scores that are computed once, progress."""

    def __init__(self, args: argparse.Namespace) -> None:
        from mtzoo.cli import _use
        from mtzoo.data.store import sha256
        from mtzoo.evaluation.metrics import protocol
        from mtzoo.evaluation.scores import check_fit
        from mtzoo.weights import WEIGHTS, weights_folder

        self.args = args
        self.protocol: Protocol | None = None
        if hasattr(args, "protocol"):
            self.protocol = protocol(args.protocol)
            self.samples = args.samples or self.protocol.samples
            self._check_samples()
        if args.use in ("fig6", "page"):
            from mtzoo.evaluation.figures import check_plotting

            check_plotting()
        self.device = _use.pick_device(args.device)
        self.models: list[_Loaded] = []
        self.pairs: PairDataset
        for name, folder in _named(args.model).items():
            model, config = _use.load(folder, self.device)
            if not self.models:
                self.pairs, self.data, self.data_seed = _use.pairs(args, config, folder)
            try:
                check_fit(model, self.pairs)
            except MtzooError as error:
                raise MtzooError(f"{folder}: {error}") from None
            self.models.append(
                _Loaded(name, folder, model, sha256(weights_folder(folder) / WEIGHTS))
            )
        self._scores: dict[str, Scores] = {}
        self._lpips: Lpips | None = None
        self.lpips_told = ""
        if "lpips" in args.takes:
            self._lpips, missing = _use.find_lpips(args.lpips, self.device)
            if self._lpips is not None:
                self.lpips_told = (
                    f"LPIPS version 0.1 on {self._lpips.backbone}, whose weights are "
                    f"{self._lpips.weights_sha256[:12]}."
                )
            elif missing:
                self.lpips_told = f"LPIPS was not measured: {missing}."

    def _check_samples(self) -> None:
        """Refuse fewer samples than what is made of them needs."""
        takes = self.args.takes
        least = max(2 if "lpips" in takes else 1, self.args.shown if "draws" in takes else 1)
        if self.samples < least:
            why = "the samples shown are of those drawn" if least > 2 else "samples are compared"
            raise MtzooError(f"--samples must be at least {least}, not {self.samples}: {why}")

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """A bar on a terminal; memory that runs out becomes one line."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        from mtzoo.cli import _use

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        shown = console.is_terminal
        with (
            _use.computing(self.device),
            Bar(*columns, console=console, transient=True, disable=not shown) as bar,
        ):
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def scores(self) -> Mapping[str, Scores]:
        """Every model scored on the same videos."""
        from mtzoo.evaluation.scores import Judges, score

        assert self.protocol is not None
        for loaded in self.models:
            if loaded.name not in self._scores:
                with self.progress(f"scoring {loaded.name}") as progress:
                    self._scores[loaded.name] = score(
                        loaded.model,
                        self.pairs,
                        protocol=self.protocol,
                        videos=self.args.videos,
                        samples=self.samples,
                        device=self.device,
                        seed=self.args.seed,
                        judges=Judges(lpips=self._lpips),
                        progress=progress,
                    )
        return self._scores

    def settings(self, use: str, **more: object) -> dict[str, object]:
        """What every JSON file says of how its numbers came to be."""
        from mtzoo.engine.folder import versions

        models = self.models if "models" in USES[use][1] else self.models[:1]
        told: dict[str, object] = {
            "command": self.command(use),
            "models": {m.name: {"folder": m.folder, "weights": m.weights_sha256} for m in models},
            "data": self.data,
            "data_seed": self.data_seed,
            "seed": self.args.seed,
            "versions": versions(self.device),
        }
        told["left_out"] = self.pairs.left_out
        if self.protocol is not None and use != "fig3":
            told |= {"protocol": asdict(self.protocol), "samples": self.samples}
        return {**told, **more}

    def command(self, use: str) -> str:
        """The command that makes one part, with what was given and differs from the defaults."""
        parts = ["mtzoo", "report", use]
        takes = USES[use][1]
        models = self.args.model if "models" in takes else self.args.model[:1]
        known = argparse.ArgumentParser()
        _add_options(known, takes)
        for action in known._actions:
            if action.dest in ("help", "output"):
                continue
            values = models if action.dest == "model" else [getattr(self.args, action.dest)]
            for value in values:
                if value != action.default:
                    parts += [action.option_strings[-1], str(value)]
        inside = f"/{use}" if self.args.use == "page" else ""
        return shlex.join([*parts, "--output", f"{self.args.output}{inside}"])


def _named(given: list[str]) -> dict[str, str]:
    """Folders by the models' names, from ``NAME=DIR`` or ``DIR``."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).exists():
            name, folder = Path(text).resolve().name, text
        if not name or not folder:
            raise MtzooError(f"--model {text}: give NAME=DIR, or a folder alone")
        if name in found:
            raise MtzooError(
                f"--model: two models are called {name!r} ({found[name]}, {folder}); call one "
                "otherwise with --model NAME=DIR"
            )
        found[name] = folder
    return found


# Table II -----------------------------------------------------------------------------------


def _table2(session: _Session, folder: Path) -> str:
    """Write the table as Markdown, CSV and JSON; returns it as HTML."""
    from mtzoo.engine.folder import write_json, write_text
    from mtzoo.evaluation.figures import COLUMNS, cells, table2

    scored = session.scores()
    entries = table2(scored)
    first = next(iter(scored.values()))
    heads = ["method", *(f"{COLUMNS[metric][0]} ↑" for metric in entries[0].figures)]
    chosen = "by SSIM" if first.protocol.best == "ssim" else "for each metric by itself"
    note = (
        f"Best of {first.samples} samples, chosen {chosen}, and differences between all pairs of "
        f"samples of one picture; brackets are 95 % bootstrap intervals over videos. "
        f"{_measured(session, first)} {session.lpips_told}"
    ).strip()
    lines = [heads, ["---"] * len(heads), *(cells(entry) for entry in entries)]
    text = "".join(f"| {' | '.join(_escaped(cell) for cell in line)} |\n" for line in lines)
    write_text(
        folder / "table2.md",
        f"{text}\n{note}\n\n```\n{session.command('table2')}\n```\n",
    )
    rows = [
        {
            "method": entry.name,
            **{
                f"{metric}{end}": "" if figure is None else getattr(figure, end[1:] or "mean")
                for metric, figure in entry.figures.items()
                for end in ("", "_low", "_high")
            },
        }
        for entry in entries
    ]
    _write_csv(folder / "table2.csv", rows)
    figures = {
        entry.name: {
            **{metric: figure and asdict(figure) for metric, figure in entry.figures.items()},
            "by_video": dict(entry.by_video),
        }
        for entry in entries
    }
    write_json(
        folder / "table2.json",
        session.settings("table2", **first.counts(), lpips=session.lpips_told, table=figures),
    )
    body = [
        '<div class="scores"><table><thead><tr>',
        *(f"<th>{html.escape(head)}</th>" for head in heads),
        "</tr></thead><tbody>",
    ]
    for entry in entries:
        told_cells = (f"<td>{html.escape(cell)}</td>" for cell in cells(entry))
        body.append(f"<tr>{''.join(told_cells)}</tr>")
    return "".join([*body, "</tbody></table></div>", f"<p>{html.escape(note)}</p>"])


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    import csv

    from mtzoo.files import replacing

    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# Figures ------------------------------------------------------------------------------------


def _fig3(session: _Session, folder: Path) -> str:
    """Write the sheet; returns it as HTML."""
    from mtzoo import media
    from mtzoo.engine.folder import write_json
    from mtzoo.engine.samples import spread
    from mtzoo.evaluation import figures

    args, pairs = session.args, session.pairs
    positions = spread(max(args.sources, args.targets), len(pairs))
    with session.progress("transferring") as progress:
        found = figures.transfers(
            session.models[0].model,
            pairs,
            sources=positions[: args.sources],
            targets=positions[: args.targets],
            device=session.device,
            progress=progress,
        )
    heads = ["target", *_heads(pairs.frames, args.columns)]
    sheet = figures.lay_out(found.blocks(args.columns), heads)
    media.write_image(folder / "fig3.png", sheet)
    write_json(
        folder / "fig3.json",
        session.settings("fig3", sources=found.sources, targets=found.targets),
    )
    truth = " Where source and target are of one pair, the world's own answer is shown below."
    return _figure(
        folder / "fig3.png",
        "Deterministic transfer: the motion of each source on each target picture (red), "
        f"{pairs.frames} frames a clip.{truth if pairs.has_truth else ''}{_left_out(session)}",
    )


def _fig4(session: _Session, folder: Path) -> str:
    """Write the sheet and its animation; returns them as HTML."""
    from mtzoo import media
    from mtzoo.engine.folder import write_json
    from mtzoo.engine.samples import spread
    from mtzoo.evaluation import figures

    args, pairs = session.args, session.pairs
    assert session.protocol is not None
    with session.progress("drawing") as progress:
        found = figures.drawn(
            session.models[0].model,
            pairs,
            positions=spread(args.pictures, len(pairs)),
            samples=session.samples,
            settings=session.protocol.ssim,
            device=session.device,
            seed=args.seed,
            progress=progress,
        )
    blocks = [one.rows(args.shown, args.columns) for one in found]
    sheet = figures.lay_out(blocks, _heads(pairs.frames, args.columns))
    media.write_image(folder / "fig4.png", sheet)
    media.write(folder / "fig4.gif", figures.play(found, args.shown), fps=args.fps)
    videos = [
        {"position": one.position, "best": one.best + 1, "ssim": one.ssim.tolist()} for one in found
    ]
    write_json(folder / "fig4.json", session.settings("fig4", videos=videos))
    return _figure(
        folder / "fig4.png",
        "Stochastic generation: the true video, whose first frame (red) is the input; the first "
        f"motions drawn; and last the one of {session.samples} drawn whose SSIM with the true "
        f"video is best. Beside each its SSIM, protocol {session.protocol.name}."
        f"{_left_out(session)}",
    ) + _figure(folder / "fig4.gif", "The same, moving.")


def _fig6(session: _Session, folder: Path) -> str:
    """Write the curves as PNG and CSV; returns them as HTML."""
    from mtzoo.engine.folder import write_json
    from mtzoo.evaluation import figures
    from mtzoo.files import replacing

    scored = session.scores()
    lines = figures.curves(scored)
    with replacing(folder / "fig6.png") as temporary:
        temporary.write_bytes(figures.plot(lines))
    rows = []
    for line in lines:
        for number, step in enumerate(line.steps):
            row: dict[str, object] = {"method": line.name, "time_step": step}
            for metric, at in line.figures.items():
                row |= {
                    metric: at[number].mean,
                    f"{metric}_low": at[number].low,
                    f"{metric}_high": at[number].high,
                }
            rows.append(row)
    _write_csv(folder / "fig6.csv", rows)
    first = next(iter(scored.values()))
    told = {line.name: line.as_json() for line in lines}
    write_json(folder / "fig6.json", session.settings("fig6", **first.counts(), curves=told))
    return _figure(
        folder / "fig6.png",
        f"SSIM and PSNR over time, best of {first.samples} samples at each step; bands are 95 % "
        f"bootstrap intervals over videos. {_measured(session, first)}",
    )


MAKERS: dict[str, Callable[[_Session, Path], str]] = {
    "table2": _table2,
    "fig3": _fig3,
    "fig4": _fig4,
    "fig6": _fig6,
}


def _measured(session: _Session, scores: Scores) -> str:
    """How scores came to be, in words."""
    ssim = scores.protocol.ssim
    sigma = f" of sigma {ssim.sigma:g}" if ssim.window == "gaussian" else ""
    pooled = scores.protocol.psnr == "pooled"
    return (
        f"{scores.counted()}, of which the first is the input and is not scored; protocol "
        f"{scores.protocol.name}: SSIM under a {ssim.window} window{sigma}, {ssim.size}x"
        f"{ssim.size} pixels, wholly inside the picture, with "
        f"{'sample' if ssim.sample_covariance else 'population'} covariance and range "
        f"{ssim.data_range:g}; PSNR of {'all channels together' if pooled else 'each channel'}."
        f"{_left_out(session)}"
    )


def _left_out(session: _Session) -> str:
    """What a caption says of videos too short for a clip, with a space before it."""
    from mtzoo.cli import _use

    short = _use.short_of(session.pairs)
    return f" {short}." if short else ""


def _heads(frames: int, columns: int) -> list[str]:
    from mtzoo.evaluation.figures import times

    return [f"t = {t + 1}" for t in times(frames, columns)]


def _figure(path: Path, caption: str) -> str:
    kind = path.suffix.removeprefix(".")
    data = base64.b64encode(path.read_bytes()).decode()
    told = html.escape(caption)
    return (
        f'<figure><img alt="{told}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{told}</figcaption></figure>"
    )


# The page -----------------------------------------------------------------------------------

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h2 { margin-top: 3rem; border-bottom: 1px solid #ddd; }
img { max-width: 100%; height: auto; }
figure { margin: 1rem 0; }
figcaption, p, td, th { overflow-wrap: anywhere; }
figcaption { color: #444; font-size: 0.9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.3rem 1.2rem 0.3rem 0; border-bottom: 1px solid #ddd; }
.scores { overflow-x: auto; }
.scores td { white-space: nowrap; }
pre { background: #f4f4f4; padding: 0.6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def _page(session: _Session, folder: Path) -> None:
    """Write all parts, each into a folder of its own, and the page that shows them."""
    from mtzoo.engine.folder import versions, write_text

    sections = []
    for use, make in MAKERS.items():
        inner = folder / use
        inner.mkdir()
        about = USES[use][0]
        sections.append(
            f"<h2>{html.escape(about)}</h2>{make(session, inner)}"
            f"<pre>{html.escape(session.command(use))}</pre>"
        )
    first, *others = session.models
    rows = [
        ("model", f"{first.name}: {first.folder}, weights {first.weights_sha256[:12]}"),
        *(("beside it", f"{m.name}: {m.folder}, weights {m.weights_sha256[:12]}") for m in others),
        ("data", ", ".join(f"{key}: {value}" for key, value in session.data.items())),
        ("data seed", str(session.data_seed)),
        ("seed of the samples", str(session.args.seed)),
        *versions(session.device).items(),
    ]
    table = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>" for key, value in rows
    )
    title = f"{first.name}: tables and figures"
    write_text(
        folder / "index.html",
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{''.join(sections)}"
        f"<h2>How this was made</h2><table>{table}</table></html>\n",
    )

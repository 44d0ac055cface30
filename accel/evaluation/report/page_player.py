"""The player of a report as HTML. Without JavaScript a browser shows one frame; `assets/player.js` makes it a
player."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape

from accel.evaluation.report.pictured_clips import PlayerClip, PlayerFrame
from accel.evaluation.report.plots import colours
from accel.evaluation.results import SweepResult


def player_data(clips: Sequence[PlayerClip]) -> str:
    """Return the clips as JSON that is safe inside a script element: nothing in it ends the element."""
    values = [asdict(clip) | {"start": clip.start} for clip in clips]
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


def player_html(clips: Sequence[PlayerClip], sweep: SweepResult) -> str:
    """Return the first clip at its first picture, the legend, and the controls, which a script makes visible."""
    clip = clips[0]
    frame = clip.frames[clip.start]
    colour = colours(list(sweep.models))
    under = frame.image if clip.over else ""
    pair = _picture(frame.image, "input", "") + _picture(frame.truth, "ground truth", under)
    groups = [_group("Video", "", "#444444", pair)]
    for (name, interval), pictured in zip(clip.shown, frame.models, strict=True):
        pair = _picture(pictured.prediction, "prediction", under) + _picture(pictured.errors, "errors", under)
        groups.append(_group(name, f"interval {interval}", colour[name], pair))
    legend = "".join(
        f'<li><span style="background:rgb{tuple(rgb)}"></span>{escape(name)}</li>'
        for name, rgb in zip(sweep.class_names, sweep.palette, strict=True)
    )
    legend += "".join(
        f'<li><span style="background:{colour}"></span>{escape(meaning)}</li>' for colour, meaning in sweep.words.signs
    )
    options = "".join(f'<option value="{i}">{escape(c.name)}</option>' for i, c in enumerate(clips))
    return f"""
<p>{sweep.words.errors} Step with the buttons, the slider or the arrow keys; the space bar plays. Each model's bar has a
filled cell at its key frames.</p>
<noscript><p>This shows one frame; stepping through them needs JavaScript.</p></noscript>
<div id="player" tabindex="0" role="group" aria-label="player">
<div class="controls" hidden>
<button id="back" aria-label="frame before">&#9664;</button>
<button id="play" aria-label="play or pause">Play</button>
<button id="next" aria-label="next frame">&#9654;</button>
<input id="slider" type="range" min="0" value="{clip.start}" max="{len(clip.frames) - 1}" aria-label="frame">
<output id="where">{_where(clip, frame)}</output>
<label{" hidden" if len(clips) == 1 else ""}>clip up to <select id="clip">{options}</select></label>
</div>
<div class="groups">{"".join(groups)}</div>
<ul class="legend">{legend}</ul>
</div>"""


def _where(clip: PlayerClip, frame: PlayerFrame) -> str:
    return f"frame {clip.start + 1} of {len(clip.frames)} (number {frame.number} of the video)"


def _group(title: str, note: str, colour: str, pair: str) -> str:
    return (
        f'<div class="group"><h3 style="border-color:{colour}">{escape(title)} <small>{escape(note)}</small></h3>'
        f'<p class="state"></p><div class="track" style="color:{colour}"></div><div class="pair">{pair}</div></div>'
    )


def _picture(source: str | None, title: str, under: str) -> str:
    """Return a picture with its caption. under: the picture that it lies on, or empty."""
    below = f'<img class="under" alt="" src="{(source and under) or _EMPTY}">'
    picture = f'<img alt="{title}" src="{source or _EMPTY}">'
    return f'<figure><div class="stack">{below}{picture}</div><figcaption>{title}</figcaption></figure>'


_EMPTY = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"  # one clear pixel

"""VP-Synth: rendered people who perform 8 actions, with the five attributes of VP-HMDB51, as real mp4 files.

What is asked of it: actions are told apart by motion alone (three pairs are each other reversed in time) and span the whole
video; attributes are balanced, independent of each other and of the action, and readable; `face` shows in some of the frames
only, so that a video says more than a frame; everything else (clothes, background, size, place, speed) is random. A second
person stands still: one who sways would tell `relationship` by motion.

All lengths are shares of the frame's side, angles are radians from hanging straight down.
"""

import csv
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from stprivacy.config import VP_ATTRIBUTES, SyntheticDataset
from stprivacy.data.processes import end_with_parent
from stprivacy.data.video import write_mp4
from stprivacy.randomness import keyed_seed

ACTIONS = ("raise_arms", "lower_arms", "squat_down", "stand_up", "walk_right", "walk_left", "wave", "kick")
FRAMES_PER_SECOND = 16
SUBPIXEL = 4  # bits of a fraction in OpenCV's drawing calls
DARK_SKIN, LIGHT_SKIN = (120, 74, 48), (236, 190, 160)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """How a person looks: what the attributes say, and clothes that say nothing."""

    skin: Colour
    shirt: Colour
    trousers: Colour
    hair: Colour
    woman: bool
    bare_chested: bool
    face_from: float
    """Share of the video after which the face is turned to the camera, until `face_until`."""
    face_until: float


@dataclass(frozen=True)
class Pose:
    left_arm: float = 0.25
    right_arm: float = 0.25
    left_leg: float = 0.12
    right_leg: float = 0.12
    squat: float = 0.0
    """0 standing … 1 squatting."""
    shift: float = 0.0
    """Sideways way from where the person started."""


@dataclass(frozen=True)
class Style:
    """How this person performs the action."""

    amplitude: float
    phase: float
    left_handed: bool
    stride: float


def pose_at(action: str, progress: float, style: Style) -> Pose:
    """The pose at `progress` 0 … 1 through the action."""
    if action in ("raise_arms", "lower_arms"):
        raised = 0.2 + 2.5 * style.amplitude * (progress if action == "raise_arms" else 1 - progress)
        return Pose(left_arm=raised, right_arm=raised)
    if action in ("squat_down", "stand_up"):
        depth = 0.9 * style.amplitude * (progress if action == "squat_down" else 1 - progress)
        return Pose(left_arm=0.35, right_arm=0.35, squat=depth)
    if action in ("walk_right", "walk_left"):
        swing = np.sin(2 * np.pi * (1.2 * progress + style.phase))
        direction = 1 if action == "walk_right" else -1
        shift = direction * style.stride * (progress - 0.5)
        return Pose(0.3 - 0.3 * swing, 0.3 + 0.3 * swing, 0.12 + 0.35 * swing, 0.12 - 0.35 * swing, shift=shift)
    if action == "wave":
        waving = 2.2 + 0.55 * np.sin(2 * np.pi * (1.8 * progress + style.phase))
        return Pose(left_arm=waving) if style.left_handed else Pose(right_arm=waving)
    kicking = 0.12 + 1.1 * style.amplitude * np.sin(np.pi * progress)
    return Pose(left_leg=kicking) if style.left_handed else Pose(right_leg=kicking)


@dataclass(frozen=True)
class Person:
    """Somebody in a video: their look, where their feet stand, and how tall they are."""

    look: Look
    x: float
    ground: float
    height: float


@dataclass(frozen=True)
class Scene:
    """All that is random in a video but its noise."""

    background: np.ndarray
    """uint8 (size, size, 3)."""
    person: Person
    bystander: tuple[Person, Pose] | None
    style: Style
    begin: float
    """Where in the action, 0 … 1, the video begins, and where it ends."""
    end: float
    brightness: float


NEUTRAL_LOOK = Look(
    skin=(230, 230, 230),
    shirt=(150, 150, 150),
    trousers=(110, 110, 110),
    hair=(190, 190, 190),
    woman=False,
    bare_chested=False,
    face_from=2.0,  # never
    face_until=2.0,
)
NEUTRAL = Person(NEUTRAL_LOOK, x=0.5, ground=0.94, height=0.70)
"""The figure that shows a motion and nothing of who performs it."""
NEUTRAL_BACKGROUND = 12


class Canvas:
    """A frame to draw on, in shares of its side, with smooth edges."""

    def __init__(self, background: np.ndarray):
        self.image, self.side = background.copy(), background.shape[0]

    def _point(self, point: np.ndarray) -> tuple[int, int]:
        x, y = np.round(np.asarray(point) * self.side * (1 << SUBPIXEL)).astype(int)
        return int(x), int(y)

    def limb(self, start: np.ndarray, end: np.ndarray, width: float, colour: Colour) -> None:
        cv2.line(self.image, self._point(start), self._point(end), colour, max(1, round(width * self.side)), cv2.LINE_AA, SUBPIXEL)

    def disc(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        cv2.circle(self.image, self._point(centre), round(radius * self.side * (1 << SUBPIXEL)), colour, -1, cv2.LINE_AA, SUBPIXEL)

    def polygon(self, points: list[np.ndarray], colour: Colour) -> None:
        cv2.fillConvexPoly(self.image, np.array([self._point(point) for point in points], np.int32), colour, cv2.LINE_AA, SUBPIXEL)


def draw_person(canvas: Canvas, x: float, ground: float, height: float, look: Look, pose: Pose, face: bool) -> None:
    """Draw one person, feet at (`x`, `ground`), `height` tall when standing."""
    hip = np.array([x, ground - 0.46 * height * (1 - 0.55 * pose.squat)])
    shoulder = hip - [0, 0.32 * height]
    head, head_radius = shoulder - [0, 0.144 * height], 0.115 * height
    torso = look.skin if look.bare_chested else look.shirt
    _draw_legs(canvas, hip, ground, height, look, pose)
    if look.woman:  # long hair behind the shoulders
        widths = ((-1.1, 0.0), (1.1, 0.0), (1.8, 0.295), (-1.8, 0.295))
        canvas.polygon([head + [w * head_radius, d * height] for w, d in widths], look.hair)
    corners = ((-0.12, shoulder), (0.12, shoulder), (0.106, hip), (-0.106, hip))
    canvas.polygon([place + [w * height, 0.0] for w, place in corners], torso)
    for side, angle in ((-1, pose.left_arm), (1, pose.right_arm)):
        start = shoulder + [side * 0.12 * height, 0.02 * height]
        direction = np.array([side * np.sin(angle), np.cos(angle)])
        elbow, hand = start + 0.16 * height * direction, start + 0.36 * height * direction
        canvas.limb(start, elbow, 0.077 * height, torso)
        canvas.limb(elbow, hand, 0.068 * height, look.skin)
        canvas.disc(hand, 0.043 * height, look.skin)
    canvas.disc(head, 1.15 * head_radius, look.hair)
    if face:
        _draw_face(canvas, head, head_radius, look.skin)


def _draw_legs(canvas: Canvas, hip: np.ndarray, ground: float, height: float, look: Look, pose: Pose) -> None:
    """Two segments a leg; knees splay in a squat. A skirt over bare legs, or trousers."""
    colour = look.skin if look.woman else look.trousers
    for side, angle in ((-1, pose.left_leg), (1, pose.right_leg)):
        start = hip + [side * 0.085 * height, 0]
        if pose.squat > 0:
            knee = start + [side * (0.12 + 0.22 * pose.squat) * height, 0.45 * (ground - hip[1])]
            foot = np.array([hip[0] + side * 0.135 * height, ground])
        else:
            direction = np.array([side * np.sin(angle), np.cos(angle)])
            knee, foot = start + 0.23 * height * direction, start + 0.46 * height * direction
        canvas.limb(start, knee, 0.094 * height, colour)
        canvas.limb(knee, foot, 0.085 * height, colour)
    if look.woman:
        hem = 0.27 * height * (1 - 0.4 * pose.squat)
        corners = ((-0.085, -0.04 * height), (0.085, -0.04 * height), (0.2, hem), (-0.2, hem))
        canvas.polygon([hip + [w * height, d] for w, d in corners], look.trousers)


def _draw_face(canvas: Canvas, head: np.ndarray, radius: float, skin: Colour) -> None:
    canvas.disc(head + [0, 0.2 * radius], 0.98 * radius, skin)
    for side in (-1, 1):
        canvas.disc(head + [side * 0.42 * radius, 0.05 * radius], 0.17 * radius, (20, 20, 20))
    canvas.limb(head + [-0.3 * radius, 0.65 * radius], head + [0.3 * radius, 0.65 * radius], 0.02, (150, 30, 40))


def draw_scene(attributes: tuple[int, ...], size: int, draw: np.random.Generator) -> Scene:
    """Draw all that is random in a video but its noise. The order of the draws is part of the data set: another one gives other videos."""
    background = _background(size, draw)
    look, height, ground = _look(attributes, draw), draw.uniform(0.63, 0.75), draw.uniform(0.9, 0.96)
    x, bystander = draw.uniform(0.42, 0.58), None
    if attributes[4]:
        side = draw.choice([-1, 1])
        x = 0.5 - side * draw.uniform(0.1, 0.17)
        their_height, their_ground = draw.uniform(0.85, 1.0) * height, ground - draw.uniform(0, 0.04)
        their_x = 0.5 + side * draw.uniform(0.21, 0.27)
        bystander = Person(_look(attributes, draw), their_x, their_ground, their_height), Pose(*draw.uniform(0.2, 0.3, 2))
    style = Style(draw.uniform(0.85, 1.1), draw.uniform(), bool(draw.integers(2)), draw.uniform(0.15, 0.23))
    begin, end, brightness = draw.uniform(0, 0.15), draw.uniform(0.85, 1.0), draw.uniform(0.9, 1.1)
    return Scene(background, Person(look, x, ground, height), bystander, style, begin, end, brightness)


def render_video(action: str, attributes: tuple[int, ...], num_frames: int, size: int, draw: np.random.Generator) -> np.ndarray:
    """One video, uint8 (num_frames, size, size, 3). `attributes` in the order of VP_ATTRIBUTES."""
    scene = draw_scene(attributes, size, draw)
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for index in range(num_frames):
        image = _drawn(action, scene, index / (num_frames - 1))
        frames[index] = np.clip(image * scene.brightness + draw.normal(0, 3, image.shape), 0, 255)
    return frames


def _drawn(action: str, scene: Scene, time: float) -> np.ndarray:
    """The frame at `time` 0 … 1 of the video, uint8 (size, size, 3), before brightness and noise."""
    canvas = Canvas(scene.background)
    if scene.bystander:
        they, their_pose = scene.bystander
        draw_person(canvas, they.x, they.ground, they.height, they.look, their_pose, _faces_camera(they.look, time))
    pose = pose_at(action, scene.begin + (scene.end - scene.begin) * time, scene.style)
    person = scene.person
    draw_person(canvas, person.x + pose.shift, person.ground, person.height, person.look, pose, _faces_camera(person.look, time))
    return canvas.image


def neutral_video(action: str, attributes: tuple[int, ...], num_frames: int, size: int, draw: np.random.Generator) -> np.ndarray:
    """The motion of `render_video` from the same draws, by one neutral figure: uint8 (num_frames, size, size), grey.

    `attributes` only say which draws there are: nothing of them shows. Which arm or leg, the phase, and where in the action the video
    begins and ends are the video's own; figure, place, size, amplitude and stride are the same in all.
    """
    return _neutral_frames(action, draw_scene(attributes, size, draw), range(num_frames), num_frames, size)


def neutral_video_of(
    file: str, action: str, attributes: tuple[int, ...], dataset: SyntheticDataset, frames: Sequence[int], size: int
) -> np.ndarray:
    """The frames numbered `frames` of the neutral video of a rendered `file`: uint8 (len(frames), size, size).

    `file` and `attributes` are a row's of `plan`, `frames` 0 … dataset.num_frames - 1. Raises ValueError for frames beyond them.
    """
    if any(not 0 <= frame < dataset.num_frames for frame in frames):
        raise ValueError(f"{file}: has frames 0 … {dataset.num_frames - 1}, asked for {list(frames)}")
    scene = draw_scene(attributes, size, _draws_of(file, dataset))
    return _neutral_frames(action, scene, frames, dataset.num_frames, size)


def _neutral_frames(action: str, scene: Scene, frames: Sequence[int], num_frames: int, size: int) -> np.ndarray:
    """Drawn at twice the size: a limb is a whole number of pixels wide, and smooth edges come from averaging."""
    background = np.full((2 * size, 2 * size, 3), NEUTRAL_BACKGROUND, np.uint8)
    style = replace(scene.style, amplitude=1.0, stride=0.19)
    neutral = replace(scene, background=background, person=NEUTRAL, bystander=None, style=style)
    shown = np.empty((len(frames), size, size), np.uint8)
    for index, frame in enumerate(frames):
        image = _drawn(action, neutral, frame / (num_frames - 1))
        shown[index] = cv2.resize(image[..., 0], (size, size), interpolation=cv2.INTER_AREA)
    return shown


def _faces_camera(look: Look, time: float) -> bool:
    return look.face_from <= time < look.face_until


def _look(attributes: tuple[int, ...], draw: np.random.Generator) -> Look:
    dark, face, woman, bare, _ = (bool(value) for value in attributes)
    tone = np.clip(np.array(DARK_SKIN if dark else LIGHT_SKIN) + draw.normal(0, 6, 3), 0, 255)
    shown = draw.uniform(0.4, 0.8)  # of the video, in one piece
    start = draw.uniform(0, 1 - shown)
    return Look(
        skin=(int(tone[0]), int(tone[1]), int(tone[2])),
        shirt=_colour(draw, hue=(80, 310), saturation=(0.5, 1.0), value=(0.4, 0.95)),  # hues away from skin
        trousers=_colour(draw, hue=(80, 310), saturation=(0.3, 0.9), value=(0.25, 0.8)),
        hair=_colour(draw, hue=(10, 45), saturation=(0.2, 0.7), value=(0.08, 0.35)),
        woman=woman,
        bare_chested=bare,
        face_from=start if face else 2.0,
        face_until=start + shown,
    )


def _colour(draw: np.random.Generator, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    hsv = np.array([[[draw.uniform(*hue) / 2, draw.uniform(*saturation) * 255, draw.uniform(*value) * 255]]]).astype(np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
    return int(red), int(green), int(blue)


def _background(size: int, draw: np.random.Generator) -> np.ndarray:
    """A vertical gradient with a few boxes."""
    top, bottom = draw.uniform(40, 215, 3), draw.uniform(40, 215, 3)
    shade = np.linspace(0, 1, size)[:, None, None]
    image = np.broadcast_to(top * (1 - shade) + bottom * shade, (size, size, 3)).astype(np.uint8).copy()
    for _ in range(draw.integers(2, 6)):
        corner, extent = draw.uniform(0, 1, 2) * size, draw.uniform(0.08, 0.33, 2) * size
        low, high = corner.astype(int), (corner + extent).astype(int)
        red, green, blue = draw.uniform(40, 215, 3)
        cv2.rectangle(image, (int(low[0]), int(low[1])), (int(high[0]), int(high[1])), (red, green, blue), -1)
    return image


def plan(dataset: SyntheticDataset) -> list[dict[str, object]]:
    """What is to be rendered: a row a video with file, action, split and attributes, balanced and independent in each split."""
    rows: list[dict[str, object]] = []
    for split, count in (("train", dataset.num_train), ("test", dataset.num_test)):
        draw = np.random.default_rng(keyed_seed("vp-synth", dataset.seed, split))
        actions = draw.permutation(np.arange(count) % len(ACTIONS))
        attributes = np.stack([draw.permutation(np.arange(count) % 2) for _ in VP_ATTRIBUTES], axis=1)
        for index in range(count):
            action = ACTIONS[actions[index]]
            labels = dict(zip(VP_ATTRIBUTES, attributes[index].tolist(), strict=True))
            rows.append({"file": f"{action}/{split}_{index:05d}.mp4", "action": action, "split": split, **labels})
    return rows


def render(dataset: SyntheticDataset, folder: Path, num_processes: int) -> list[dict[str, object]]:
    """Render all videos that `folder` lacks, with `labels.csv` beside them; gives the rows of `plan`."""
    rows = plan(dataset)
    missing = [row for row in rows if not (folder / str(row["file"])).exists()]
    for action in ACTIONS:
        (folder / action).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        made = pool.map(_render_row, missing, [dataset] * len(missing), [folder] * len(missing), chunksize=16)
        for _ in tqdm(made, total=len(missing), desc="render VP-Synth", mininterval=5, disable=not missing):
            pass
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _draws_of(file: str, dataset: SyntheticDataset) -> np.random.Generator:
    """The draws of one video, whichever others are rendered."""
    return np.random.default_rng(keyed_seed("vp-synth", dataset.seed, file))


def _render_row(row: dict[str, object], dataset: SyntheticDataset, folder: Path) -> None:
    draw = _draws_of(str(row["file"]), dataset)
    attributes = tuple(int(str(row[name])) for name in VP_ATTRIBUTES)
    frames = render_video(str(row["action"]), attributes, dataset.num_frames, dataset.size, draw)
    target = folder / str(row["file"])
    temporary = target.with_suffix(f".{os.getpid()}.part.mp4")
    write_mp4(temporary, frames, FRAMES_PER_SECOND, crf=10)
    os.replace(temporary, target)

"""Which questions a study asks: two answers each, one right, drawn from a seed and balanced.

For every release (a method at a kept share) as many questions of each kind: which action, which clip has the attribute, who it is.
The right answer is as often the first as the second, and a test clip is shown again only when all others have been.

n clips, A attributes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from stprivacy.errors import UserError
from stprivacy.evaluation.gallery import LabelledClips
from stprivacy.study import ACTION, PERSON

Layout = Literal["name", "pick", "match"]
"""One clip and two names; two clips to pick from; a clip and two clips, of which one shows the same person."""
T = TypeVar("T")

RENDERED = {
    "skin_color": "In which clip does the person have dark skin?",
    "face": "In which clip does the person show a face?",
    "gender": "Which clip shows a woman (long hair, skirt)?",
    "nudity": "In which clip is the person's chest bare?",
    "relationship": "Which clip shows two people?",
}
"""Of VP-Synth, where an attribute is a way to look."""
TOLD = {
    "skin_color": "In which clip was the original person's skin colour to be seen?",
    "face": "In which clip was the original person's face to be seen?",
    "gender": "In which clip could the original person's gender be told?",
    "nudity": "In which clip did the original person show bare skin, such as arms, legs or chest?",
    "relationship": "Which clip shows people who belong together, such as friends or a couple?",
}
"""Of VP-HMDB51, VP-UCF101 and PA-HMDB51, where an attribute is positive when it can be told."""


@dataclass(frozen=True)
class Seen:
    """A clip on the page."""

    release: int
    """Number of the release; −1 for a raw clip of the gallery."""
    row: int
    gallery: bool = False
    """Of the gallery (other clips of the same people) and not of the test clips."""


@dataclass(frozen=True)
class Question:
    kind: str
    """`action`, `person`, or an attribute's name."""
    release: int
    prompt: str
    layout: Layout
    clips: tuple[Seen, ...]
    options: tuple[str, str]
    answer: Literal[0, 1]
    """Which option is right."""


def wording_for(dataset_kind: str, attributes: Sequence[str], own: dict[str, str]) -> dict[str, str]:
    """What is asked of each attribute; `own` replaces ours. Raises UserError for one that the data set doesn't have."""
    unknown = sorted(own.keys() - set(attributes))
    if unknown:
        raise UserError(f"--wording: {unknown[0]} is no attribute of this data set; it has {', '.join(attributes)}")
    known = RENDERED if dataset_kind == "vp-synth" else TOLD
    return {name: own.get(name) or known.get(name) or f"Which clip is the one with “{name.replace('_', ' ')}”?" for name in attributes}


def are_persons(clips: LabelledClips) -> bool:
    """Is every clip of exactly one of several people?"""
    return clips.attributes.shape[1] > 1 and bool((clips.attributes.sum(1) == 1).all())


class Drawer:
    """Draws questions on test clips; `gallery`: other clips of the same people, shown raw where `raw_gallery`.

    Who knows `seed` knows the right answers: a small one is for tests.
    """

    def __init__(
        self, clips: LabelledClips, num_releases: int, each: int, seed: int, wording: dict[str, str], gallery: LabelledClips | None,
        raw_gallery: bool,
    ):  # fmt: skip
        self.clips, self.num_releases, self.each, self.wording = clips, num_releases, each, wording
        self.gallery, self.raw_gallery = gallery, raw_gallery
        self.actions = np.array(clips.actions)
        self.random = np.random.default_rng(seed)
        self.used: Counter[int] = Counter()
        self.left_out: list[str] = []
        """Kinds that cannot be asked, with the reason."""

    def all(self) -> list[Question]:
        """Every kind for every release, in random order. Raises UserError when no kind can be asked."""
        questions = []
        for kind in self.kinds():
            sides = self._sides()
            actions = self._deck(np.unique(self.actions), self.num_releases * self.each)
            for place in range(self.num_releases * self.each):
                questions.append(self._question(kind, place // self.each, str(actions[place]), sides[place]))
        if not questions:
            raise UserError(f"no question can be asked: {'; '.join(self.left_out)}")
        return [questions[index] for index in self.random.permutation(len(questions))]

    def kinds(self) -> list[str]:
        """What can be asked of these clips; fills `left_out`."""
        found = [ACTION] if len(np.unique(self.actions)) > 1 and not self.clips.several_actions else []
        if not found:
            self.left_out.append(f"action: {'a clip shows several' if self.clips.several_actions else 'all clips show the same one'}")
        if are_persons(self.clips):
            return [*found, PERSON] if self._persons_can_be_asked() else found
        for column, name in enumerate(self.clips.attribute_names):
            if len(np.unique(self.clips.attributes[:, column])) > 1:
                found.append(name)
            else:
                self.left_out.append(f"{name}: the same in all clips")
        return found

    def _persons_can_be_asked(self) -> bool:
        if self.gallery is None or len(np.unique(self.gallery.attributes.argmax(1))) < 2:
            self.left_out.append("person: no other clips of the same people to compare with")
            return False
        return True

    def _sides(self) -> list[Literal[0, 1]]:
        """Right answers first or second: half and half within each release, what is left over half and half among releases."""
        spare = self._deck(np.array([0, 1]), self.num_releases)
        sides: list[Literal[0, 1]] = []
        for release in range(self.num_releases):
            own = np.array([0, 1] * (self.each // 2) + [int(spare[release])] * (self.each % 2))
            sides += [1 if side else 0 for side in self.random.permutation(own)]
        return sides

    def _deck(self, values: np.ndarray, count: int) -> np.ndarray:
        """`count` draws in which all values come equally often, or once more."""
        rounds = [self.random.permutation(values) for _ in range(-(-count // len(values)))]
        return np.concatenate(rounds)[:count]

    def _take(self, mask: np.ndarray) -> int:
        """One of the test clips of a mask that were shown least, at random."""
        rows = np.flatnonzero(mask)
        least = min(self.used[int(row)] for row in rows)
        row = int(self.random.choice([row for row in rows if self.used[int(row)] == least]))
        self.used[row] += 1
        return row

    def _question(self, kind: str, release: int, action: str, answer: Literal[0, 1]) -> Question:
        if kind == ACTION:
            return self._which_action(release, action, answer)
        return self._who(release, action, answer) if kind == PERSON else self._which_clip(kind, release, action, answer)

    def _which_action(self, release: int, action: str, answer: Literal[0, 1]) -> Question:
        other = str(self.random.choice([name for name in np.unique(self.actions) if name != action]))
        row = self._take(self.actions == action)
        options = _placed(action.replace("_", " "), other.replace("_", " "), answer)
        return Question(ACTION, release, "What is the person doing?", "name", (Seen(release, row),), options, answer)

    def _which_clip(self, name: str, release: int, action: str, answer: Literal[0, 1]) -> Question:
        """Both clips show the same action where there are such two, so that the action doesn't tell."""
        has = self.clips.attributes[:, self.clips.attribute_names.index(name)]
        fitting = [one for one in np.unique(self.actions) if len(np.unique(has[self.actions == one])) > 1]
        if action not in fitting and fitting:
            action = str(self.random.choice(fitting))
        same = self.actions == action if fitting else np.ones(len(has), bool)
        shown = _placed(Seen(release, self._take(same & has)), Seen(release, self._take(same & ~has)), answer)
        return Question(name, release, self.wording[name], "pick", shown, ("First clip", "Second clip"), answer)

    def _who(self, release: int, action: str, answer: Literal[0, 1]) -> Question:
        """A released clip, and two others: of the same person, and of somebody else, doing the same thing where they can."""
        assert self.gallery is not None
        row = self._take(self.actions == action)
        person, people = int(self.clips.attributes[row].argmax()), self.gallery.attributes.argmax(1)
        actions = np.array(self.gallery.actions)
        own = np.flatnonzero((people == person) & (actions != action))
        own = own if len(own) else np.flatnonzero(people == person)
        if not len(own):
            raise UserError(f"{self.clips.attribute_names[person]}: has no clip beside the test clips, so nobody can be asked who it is")
        right = int(self.random.choice(own))
        like = np.flatnonzero((people != person) & (actions == actions[right]))
        wrong = int(self.random.choice(like if len(like) else np.flatnonzero(people != person)))
        shown_as = -1 if self.raw_gallery else release
        pair = _placed(Seen(shown_as, right, gallery=True), Seen(shown_as, wrong, gallery=True), answer)
        prompt = "Which of the two clips below shows the same person?"
        return Question(PERSON, release, prompt, "match", (Seen(release, row), *pair), ("First clip", "Second clip"), answer)


def _placed(right: T, wrong: T, answer: Literal[0, 1]) -> tuple[T, T]:
    return (wrong, right) if answer else (right, wrong)

"""What every section of params.yaml is: immutable, checked, and made of numbers with known ranges."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

T = TypeVar("T")
Share = Annotated[float, Field(ge=0, le=1)]
KeepRatio = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def all_different(values: tuple[T, ...]) -> tuple[T, ...]:
    """For a list whose entries name runs: one that is there twice would be run twice at one place, and count twice."""
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ValueError(f"{twice} is there twice; name it once")
    return values


AllDifferent = AfterValidator(all_different)


class Section(BaseModel):
    """A part of params.yaml: immutable, unknown keys refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

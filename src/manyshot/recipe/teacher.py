"""`[teacher]`: a network that others learn from, and how from several."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from manyshot.recipe.section import LIBRARIES, AnyPath, Options, Section, explain


class TeacherSettings(Section):
    """A trained network that the supernet, winners or both learn from in place of labels.

    `train.teacher = "network"` and `finish.teacher = "network"` say which. It is a finished winner
    or the supernet of another run, or a network of a library or your own with weights; it has to be
    of the same classes and image size. Images that it was trained on with another normalisation are
    normalised for it as those were.
    """

    run: AnyPath = None
    """The folder of a run that has the same task and classes."""
    budget: str | None = None
    """Of the run: its finished winner for this budget, such as `"macs<=25%"`."""
    arch: str | None = None
    """Of the run: this architecture of its supernet, such as `"0-2-1"` or `"largest"`, with the
    weights that its search ended with, and batch norms calibrated on these images."""
    name: str | None = None
    """In place of a run `torchvision:NAME`, `timm:NAME`, or `package.module:attribute` of your
    own."""
    options: Options = {}
    """Arguments of its function."""
    pretrained: bool = False
    """With the weights that torchvision or timm publishes, which are downloaded."""
    weights: AnyPath = None
    """With the weights in this file: safetensors, or a state dict saved by torch."""
    mean: list[float] | None = None
    """Of weights in a file: by what its images were normalised, per channel, of pixels in [0, 1];
    likewise `std`. Of a run, and of published weights, this is known."""
    std: list[Annotated[float, Field(gt=0)]] | None = None
    """See `mean`."""
    digest: str | None = None
    """Of its weights; a run says it, so that it never goes on with another teacher."""
    others: list[Options] = []
    """Further teachers, as tables `[[teacher.others]]` of the keys above; all teach together, as
    `finish.distillation` says, and to a supernet the mean of what they predict."""

    @property
    def every(self) -> list[TeacherSettings]:
        """This one and the others."""
        return [self, *(TeacherSettings.model_validate(each) for each in self.others)]

    @field_validator("others")
    @classmethod
    def _are_teachers(cls, others: list[Options]) -> list[Options]:
        """Each by itself is one, whose paths later commands find from any working folder."""
        read = []
        for each in others:
            if "digest" in each or "others" in each:
                raise ValueError("digest and others are of [teacher] itself: leave them out")
            try:
                one = cls.model_validate(each)
            except ValidationError as error:
                raise ValueError(explain(cls, error)) from error
            if not one.is_there:
                raise ValueError("each names a teacher: give run or name")
            read.append(one.model_dump(exclude_unset=True))
        return read

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self.run is not None or self.name is not None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.run is not None and self.name is not None:
            raise ValueError("run and name are two teachers: give one")
        fields = {k: f for k, f in type(self).model_fields.items() if k not in ("digest", "others")}
        asked = [key for key, field in fields.items() if getattr(self, key) != field.default]
        of_run, of_name = {"run", "budget", "arch"}, {"name", "options", "pretrained", "weights",
                                                      "mean", "std"}  # fmt: skip
        if not self.is_there and self.others:
            raise ValueError("others without run or name: give the first teacher in [teacher]")
        if not self.is_there and asked:
            raise ValueError(f"{', '.join(asked)} without run or name says nothing: give one")
        wrong = [key for key in asked if key not in (of_name if self.run is None else of_run)]
        if wrong:
            beside = "name" if self.run is None else "run"
            raise ValueError(f"{', '.join(wrong)} has no effect beside {beside}: leave it out")
        if self.run is not None and (self.budget is None) == (self.arch is None):
            raise ValueError(
                f"run = {self.run!r}: say which of its networks: budget = 'macs<=25%' is its "
                "finished winner for that, arch = 'largest' an architecture of its supernet"
            )
        if self.name is not None:
            self._check_weights()
        return self

    def _check_weights(self) -> None:
        assert self.name is not None
        if ":" not in self.name:
            raise ValueError(
                f"name = {self.name!r}: a teacher is one network: torchvision:NAME, timm:NAME, or "
                "package.module:attribute; of a space of the zoo give run, and arch or budget"
            )
        of_library = self.name.partition(":")[0] in LIBRARIES
        if self.pretrained == (self.weights is not None):
            raise ValueError(
                f"name = {self.name!r} teaches with weights: give weights = FILE, or (of "
                f"{' and '.join(LIBRARIES)}) pretrained = true, and not both"
            )
        if self.pretrained and not of_library:
            raise ValueError(
                f"pretrained = true is for networks of {' and '.join(LIBRARIES)}, and name = "
                f"{self.name!r} is none: give weights = FILE"
            )
        if self.weights is None and (self.mean or self.std):
            raise ValueError("mean and std are known of published weights: leave them out")
        if self.weights is not None and (self.mean is None or self.std is None):
            raise ValueError(
                f"weights = {self.weights!r} does not say how images were normalised that it "
                "learnt from, and at another normalisation it predicts otherwise: give mean and "
                "std, such as mean = [0.485, 0.456, 0.406] and std = [0.229, 0.224, 0.225]"
            )


class DistillationSettings(Section):
    """How networks learn from a teacher, or from several, in place of labels."""

    name: str = "mean"
    """mean (of what the teachers predict), ae_kd (teachers are weighed in every step), or
    `package.module:attribute`."""
    options: Options = {}
    """Its arguments, such as `temperature`."""

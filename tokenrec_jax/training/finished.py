"""A finished run, read back from its working directory. Read `FinishedRun.open`."""

import dataclasses

from jax.sharding import Mesh

from tokenrec_jax.config import Config, MeshConfig
from tokenrec_jax.data.interactions import Interactions, training_part
from tokenrec_jax.sharding import make_mesh, reopened_mesh
from tokenrec_jax.training.build import BuiltModel, build_model
from tokenrec_jax.training.checkpoint import FINAL, CheckpointStore
from tokenrec_jax.training.known import buffers_among
from tokenrec_jax.training.state import Params, abstract_model
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, Stage


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run was and what it was trained to.

    Attributes:
      config: of the run.
      interactions: whole histories, held-out items included, in the order of its protocol.
      mesh: all devices, as many as there are now.
      built: definition of the model.
      params: of the trained model.
      buffers: its other arrays.
    """

    config: Config
    interactions: Interactions
    mesh: Mesh
    built: BuiltModel
    params: Params
    buffers: Params

    @classmethod
    def open(
        cls, path: str, *, flag: str = "--workdir", trained: Stage = Stage.LLM, mesh: MeshConfig | None = None
    ) -> "FinishedRun":
        """Loads a run, which a flag named, onto all devices.

        Args:
          path: of its directory.
          flag: for messages.
          trained: the stage whose outcome is wanted; a run of stage joint, which trains everything, will do.
          mesh: layout of the devices; None: parameters are cut as they were in training, as far as the number of
            devices allows, so that what fits in no device is opened where it was trained.

        Raises:
          ConfigError: there is no finished run, it left that stage out, or the mesh is not one of these devices.
        """
        workdir = Workdir.open_finished(path, flag=flag)
        config = workdir.config()
        if not {str(trained), str(Stage.JOINT)} & set(config.stages):
            raise ConfigError(
                f"{flag}={path}: was trained in stages {','.join(config.stages)}, without {trained}; give a run with it"
            )
        interactions = workdir.interactions()
        devices = reopened_mesh(config.mesh) if mesh is None else make_mesh(mesh)
        built = build_model(
            config, training_part(interactions, config.evaluation), mesh=devices, saved=workdir.language_model
        )
        store = CheckpointStore(workdir.path)
        model = store.restore_model(FINAL, abstract_model(built.definition, devices))
        store.close()
        return cls(config, interactions, devices, built, params=model["params"], buffers=model["buffers"])

    def newest(self) -> tuple[Params, Interactions]:
        """Returns the buffers to recommend with now that the run is over, and the interactions that they rest on.

        With `evaluation.graph=known` those are all, what the run was validated and tested with included.
        """
        if self.config.evaluation.graph == "training":
            return self.buffers, training_part(self.interactions, self.config.evaluation)
        among = buffers_among(self.built, self.params, self.buffers, self.interactions, mesh=self.mesh)
        return among, self.interactions

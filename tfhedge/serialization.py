"""How the dataclasses of the package get into Keras' files, and out of them."""

import dataclasses

import keras


def serializable(cls):
    """Registers a dataclass with Keras, its fields being its configuration.

    A model that holds such an object, as a hedger does its claim, can then be saved as a `.keras`
    file.

    Args:
        cls: The dataclass.

    Returns:
        The class.

    >>> @serializable
    ... @dataclasses.dataclass(frozen=True)
    ... class Interval:
    ...     ends: tuple[float, float]
    >>> keras.saving.deserialize_keras_object(
    ...     keras.saving.serialize_keras_object(Interval((0.0, 1.0)))
    ... )
    Interval(ends=(0.0, 1.0))
    """

    def get_config(self):
        """The arguments that make this object again."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: keras.saving.serialize_keras_object(x) for name, x in values.items()}

    def from_config(cls, config):
        """The object that `get_config` was of."""
        values = {name: keras.saving.deserialize_keras_object(x) for name, x in config.items()}
        # Keras makes lists of tuples.
        return cls(**{k: tuple(x) if isinstance(x, list) else x for k, x in values.items()})

    cls.get_config, cls.from_config = get_config, classmethod(from_config)
    return keras.saving.register_keras_serializable("tfhedge")(cls)

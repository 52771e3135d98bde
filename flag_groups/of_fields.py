"""Flags that have the name and the default of a configuration's field."""

import dataclasses

from absl import flags

# A flag belongs to the module that asks for it, so that --help and tests find it there.
flags.disclaim_key_flags()


def defaults(config_class) -> dict:
    """The default of each field, by name."""
    return {field.name: field.default for field in dataclasses.fields(config_class)}


def integer_flag(defaults, name, help_text):
    return flags.DEFINE_integer(name, defaults[name], help_text)


def float_flag(defaults, name, help_text):
    return flags.DEFINE_float(name, defaults[name], help_text)


def boolean_flag(defaults, name, help_text):
    return flags.DEFINE_boolean(name, defaults[name], help_text)


def enum_flag(defaults, name, choices, help_text):
    return flags.DEFINE_enum(name, defaults[name], choices, help_text)

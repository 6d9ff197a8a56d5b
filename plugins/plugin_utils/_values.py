# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The values that the inventory gives a host for the variables of a role, and whether they are of the right type."""

from __future__ import annotations

import re

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.orbiter.fleet.plugins.plugin_utils._yaml import COLLECTION, read_yaml

try:
    from ansible.template import trust_as_template
except ImportError:  # before ansible-core 2.19 all that is read from a file may be a template

    def trust_as_template(value):
        """Return the value."""
        return value


# What is never shown: it is a secret, or may have one inside.
SECRET = re.compile(r"password|users$|_env$|_url$|_credentials$|compose_service")


class UnresolvedError(Exception):
    """A variable has no value: something inside of it is undefined, or cannot be decrypted."""

    def __init__(self, name, reason):
        super().__init__(f"{name} cannot be resolved: {reason}")
        self.name = name


class Values:
    """What each variable is for one host. Each is resolved when it is asked for, and once."""

    def __init__(self, variables, template):
        self._variables, self._template = variables, template
        self._known = {}

    def __contains__(self, name):
        return name in self._variables

    def __getitem__(self, name):
        if name not in self._known:
            try:
                value = self._template(self._variables.get(name))
                # Before ansible-core 2.19 a vault's text is an object that decrypts itself.
                self._known[name] = str(value) if hasattr(value, "vault") else value
            except AnsibleError as error:
                self._known[name] = UnresolvedError(name, str(error).strip())
        if isinstance(self._known[name], UnresolvedError):
            raise self._known[name]
        return self._known[name]

    def get(self, name, default=None):
        """Return the value of a variable that need not be there."""
        return self[name] if name in self._variables else default

    def raw(self, name):
        """Return what the variable says, as it was written."""
        return self._variables.get(name)


def same(one, other):
    """Tell whether two values are written the same; what cannot be decrypted is the same as itself only."""
    try:
        return one is other or one == other
    except AnsibleError:
        return False


def options_of(path):
    """Return the options that a role, C(roles/NAME), or C(playbooks) documents."""
    return read_yaml(f"{path}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]


def defaults_of(role, loader):
    """Return the defaults of a role's variables, as templates."""
    path = COLLECTION / "roles" / role / "defaults/main.yml"
    return loader.load(trust_as_template(path.read_text(encoding="utf-8")), file_name=str(path))


def type_error(name, option, value):
    """Return what is wrong with the type of a value, or nothing."""
    kept = {key: part for key, part in option.items() if key in ("type", "elements", "options", "choices")}
    found = ArgumentSpecValidator({name: kept}).validate({name: value}).error_messages
    if not found:
        return ""
    elements = f", of {option['elements']}" if "elements" in option else ""
    rule = f"must be of type {option.get('type', 'str')}{elements}"
    if SECRET.search(name) or option.get("no_log"):
        return f"{name} {rule}"
    # Ansible's own sentence for a value of another type names classes of its code.
    if any(f"argument '{name}' is of type" in one for one in found):
        return f"{name} is {value}: it {rule}"
    return f"{name} is {value}: {'; '.join(found)}"


def type_errors(values, options, defaults, without_facts):
    """Yield what is wrong with the types of values that are not the role's own, each with its variable's name.

    Args:
        values: The values of a host.
        options: The options that are documented.
        defaults: The role's defaults, which are right.
        without_facts: Nothing is known of the host yet, so what is made of its facts cannot be resolved.
    """
    for name, option in options.items():
        given = values.raw(name)
        if name not in values or (name in defaults and same(given, defaults[name])):
            continue
        try:
            wrong = type_error(name, option, values[name])
        except UnresolvedError as error:
            wrong = "" if without_facts and "ansible_" in str(given) else str(error)
        if wrong:
            yield name, wrong

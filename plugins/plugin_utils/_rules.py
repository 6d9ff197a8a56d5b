# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that values of an inventory follow, beside their types.

A rule is a function that takes the values of a host, and yields what is wrong: the name of the variable, and a sentence
with the value, the rule and the remedy. No rule shows a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.orbiter.fleet.plugins.filter.redis_namespaces import redis_namespaces
from ansible_collections.orbiter.fleet.plugins.plugin_utils._yaml import read_yaml

NAMESPACE = r"[A-Za-z0-9_.-]{1,64}|\{[A-Za-z0-9_.-]{1,64}\}"
QUEUE = r"[A-Za-z0-9_.:@-]{1,128}"
RESERVED_QUEUES = r"fleet|deploys?|audit|(task|stream|workers):.*"
NAMESPACE_RULE = "1 to 64 letters (a to z, A to Z), digits, or any of _ . -"
QUEUE_RULE = "1 to 128 letters (a to z, A to Z), digits, or any of _ . : @ -"
CONTROL = re.compile("[\\x00-\\x1f\\x7f]")
ADDRESS = r"([0-9]{1,3}\.){3}[0-9]{1,3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]+"
# As the firewall takes it.
NETWORK = re.compile(
    r"((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(\.(?!/|$)|(?=/|$))){4}(/(3[0-2]|[12]?[0-9]))?"
    r"|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(/[0-9]+)?"
)

RULES = {"worker": [], "redis": [], "temporal": [], "monitoring": [], "dashboard": []}


def rule(role):
    """Make a function one of a role's rules."""

    def added(function):
        RULES[role].append(function)
        return function

    return added


def fits(value, pattern):
    """Tell whether all of a value, as text, follows a pattern."""
    return re.fullmatch(pattern, str(value)) is not None


def whole(value, default=0):
    """Return a value as a whole number, or the default where it is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return default


def number(value):
    """Return a value as a number, 0 where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def yes(value):
    """Tell whether a value means yes, as Ansible's filter C(bool) has it."""
    return value is True or str(value).lower() in ("yes", "on", "1", "true", "1.0")


def is_boolean(value):
    """Tell whether a value is yes or no."""
    return isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no")


def listed(value):
    """Return a list: text, as -e gives, is one with commas. What is neither has one part, which is no name."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if hasattr(value, "__iter__") else [""]


def is_list(value):
    """Tell whether a value is a list and no text."""
    return not isinstance(value, (str, Mapping)) and hasattr(value, "__iter__")


def shown(value):
    """Return a value as JSON."""
    return json.dumps(value, default=str, ensure_ascii=False)


# --- worker

NUMBERS = (
    "worker_concurrency",
    "worker_heartbeat_ttl",
    "worker_stop_timeout",
    "worker_gate_timeout",
    "worker_watchdog_timeout",
    "worker_processes",
    "worker_stall_timeout",
    "worker_max_task_timeout",
    "worker_max_agents",
    "worker_max_steps",
    "worker_keep_releases",
    "worker_disk_free",
    "worker_autoscale_wait",
)
NUMBERS_OR_NONE = ("worker_max_tasks_per_process", "worker_tasks_max", "worker_gate_settle")
SIZES = ("worker_max_rss_per_process", "worker_memory_max")
# Each becomes a setting of the worker, on one line.
LINES = (
    "worker_redis_url",
    "worker_namespace",
    "worker_queue",
    "worker_log_format",
    "worker_log_level",
)
# What the worker takes out of the environment that it gives to executor processes.
NOT_FOR_TASKS = r"ORBITER_.*|TEMPORAL_.*|WATCHDOG_.*|LISTEN_.*|NOTIFY_SOCKET|CREDENTIALS_DIRECTORY"
ENVIRONMENTS = ("worker_task_env", "worker_extra_env")


def added_environment(values):
    """Return what the inventory adds to the environment, or nothing where that is no mapping."""
    extra, task = (values["worker_extra_env"], values["worker_task_env"])
    return {**extra, **task} if isinstance(extra, Mapping) and isinstance(task, Mapping) else {}


@rule("worker")
def instances(values):
    """Instances are counted from 0."""
    if not fits(values["worker_instances"], "[0-9]+"):
        yield (
            "worker_instances",
            f"worker_instances is {values['worker_instances']}; it must be a whole number, 0 or more. "
            "0 stops the host's workers and keeps them installed.",
        )


@rule("worker")
def instance_limits(values):
    """What autoscale may do has room for what the inventory gives."""
    now = values["worker_instances"]
    limits = (("min", "above", int.__gt__, "lower"), ("max", "below", int.__lt__, "raise"))
    for name, where, beyond, remedy in limits:
        limit = values[f"worker_instances_{name}"]
        if limit == now or not fits(now, "[0-9]+"):
            continue  # the rule for worker_instances tells what is wrong with it
        if not fits(limit, "[0-9]+"):
            yield (
                f"worker_instances_{name}",
                f"worker_instances_{name} is {limit}; it must be a whole number, 0 or more.",
            )
        elif beyond(int(limit), int(now)):
            yield (
                f"worker_instances_{name}",
                f"worker_instances_{name} is {limit} and worker_instances {now}; it must not be {where} it. Change "
                f"worker_instances, which is what a deploy gives, or {remedy} worker_instances_{name}.",
            )


def number_rule(names, pattern, text):
    """Return a rule for variables that one pattern and one sentence hold for."""
    # A rule each: one that cannot be resolved hides no other.
    for name in names:

        @rule("worker")
        def follows(values, name=name):
            if not fits(values[name], pattern):
                yield name, f"{name} is {values[name]}; it must be {text}"


number_rule(NUMBERS, "0*[1-9][0-9]*", "a whole number, 1 or more.")
number_rule(NUMBERS_OR_NONE, "[0-9]+", "a whole number, 0 or more. 0 means no limit.")
number_rule(("worker_max_task_retries", "worker_autoscale_patience"), "[0-9]+", "a whole number, 0 or more.")
number_rule(("worker_max_events",), "[1-9][0-9]{2,}", "a whole number, 100 or more.")
number_rule(
    SIZES,
    r"(0|[1-9][0-9]*([KMGT](i?B)?)?)?",
    "bytes, or a whole number with a unit, such as 350M or 1GiB. 0 means no limit.",
)
number_rule(
    ("worker_cpu_quota",),
    "([1-9][0-9]*%)?",
    "a whole number of percent, such as 150% for one and a half cores, or empty for no limit.",
)


def choice_rule(name, words, quote="'"):
    """Make a rule for a variable that has one of some words."""

    @rule("worker")
    def is_one(values):
        if values[name] not in words:
            yield name, f"{name} is {quote}{values[name]}{quote}; it must be {', '.join(words[:-1])} or {words[-1]}."


choice_rule("worker_isolation", ("process", "task", "none"))
choice_rule("worker_executor", ("local", "temporal"))
choice_rule("worker_deploy", ("systemd", "compose"), quote="")


@rule("worker")
def metrics(values):
    """Each instance finds a port for its metrics."""
    first, many, now = values["worker_metrics_port"], values["worker_metrics_ports"], values["worker_instances"]
    if not fits(first, "[0-9]+") or (whole(first) and whole(first) + max(whole(now), whole(many)) > 65536):
        yield (
            "worker_metrics_port",
            f"worker_metrics_port is {first}; it must be 0, for no metrics, or a port that leaves room for one "
            "for each instance up to 65535, such as 9464.",
        )
    if values["worker_deploy"] == "compose" and whole(first) and whole(many) < max(whole(now), 1):
        yield (
            "worker_metrics_ports",
            f"worker_metrics_ports is {many} and worker_instances {now}; each replica needs a port for its metrics. "
            "Raise the first, or set worker_metrics_port: 0, for no metrics.",
        )


@rule("worker")
def task_timeout(values):
    """The time of a task has an end."""
    if whole(values["worker_max_task_timeout"]) > 31536000:
        yield (
            "worker_max_task_timeout",
            f"worker_max_task_timeout is {values['worker_max_task_timeout']}; it must be 31536000 seconds, a year, "
            "or less.",
        )


@rule("worker")
def processes(values):
    """There is a task for each executor process."""
    if whole(values["worker_processes"]) > whole(values["worker_concurrency"]):
        yield (
            "worker_processes",
            f"worker_processes is {values['worker_processes']} and worker_concurrency {values['worker_concurrency']}; "
            "executor processes share an instance's tasks, so there must not be more of them. Lower the first or raise "
            "the second.",
        )


@rule("worker")
def drain_timeout(values):
    """A drain can end before systemd kills."""
    drain, stop = values["worker_drain_timeout"], values["worker_stop_timeout"]
    if not fits(drain, "[0-9]+") or whole(drain) >= whole(stop):
        yield (
            "worker_drain_timeout",
            f"worker_drain_timeout ({drain} s) must be a whole number below worker_stop_timeout ({stop} s, systemd's "
            "TimeoutStopSec), or systemd kills workers that are still draining. Lower the first or raise the second; "
            "left alone, it is the first plus 5.",
        )


@rule("worker")
def redis_url(values):
    """Workers know where the queue is."""
    url = values["worker_redis_url"]
    if not isinstance(url, str) or not re.match(r"(rediss?([+](sentinel|cluster))?|unix)://.", url):
        yield (
            "worker_redis_url",
            "worker_redis_url must be a URL such as redis://worker:PASSWORD@redis1:6379/0 (or rediss://, unix://, "
            "redis+sentinel://, redis+cluster://). site.yml makes it from the Redis hosts of the inventory.",
        )
    elif values["worker_deploy"] == "compose" and re.search(
        r"^unix:|(//|@|,)(localhost|127\.[0-9.]+|\[::1\])([:/,?]|$)", url
    ):
        yield (
            "worker_redis_url",
            "worker_redis_url names this very machine, which in a container is the container. Name the host by its "
            "address or name, or set worker_deploy: systemd.",
        )


@rule("worker")
def registry_login(values):
    """A login has a name and a password."""
    if values["worker_deploy"] == "compose":
        user, password = values["worker_registry_username"], values["worker_registry_password"]
        if bool(user) != bool(password):
            yield (
                "worker_registry_username",
                "worker_registry_username and worker_registry_password go together, and only one of them is set. They "
                "are image_registry_username and image_registry_password unless you set them.",
            )


@rule("worker")
def worker_namespace(values):
    """The namespace can be the first word of keys."""
    if not isinstance(values["worker_namespace"], str) or not fits(values["worker_namespace"], NAMESPACE):
        yield (
            "worker_namespace",
            f"worker_namespace (orbiter_namespace in the inventory) is {shown(values['worker_namespace'])}; it must be "
            f"{NAMESPACE_RULE}, and may be in braces. Take another name, such as acme.",
        )


@rule("worker")
def worker_queue(values):
    """The queue has a name that a key can have, and no other key of the fleet has."""
    queue, namespace = values["worker_queue"], values["worker_namespace"]
    bare = str(queue).removeprefix(f"{namespace}:")
    if not isinstance(queue, str) or not fits(queue if namespace == "orbiter" else bare, QUEUE):
        yield "worker_queue", f"worker_queue is {shown(queue)}; it must be {QUEUE_RULE}"
    elif fits(bare, RESERVED_QUEUES) and not (namespace == "orbiter" and not queue.startswith("orbiter:")):
        yield (
            "worker_queue",
            f"worker_queue is {shown(queue)}, and {namespace}:{bare} is a key of the fleet. Behind the namespace a "
            "queue is not fleet, deploy, or what begins with task:, stream: or workers:. Take another name.",
        )


@rule("worker")
def durable(values):
    """Durable tasks have a Temporal, and the release what they need."""
    if values["worker_executor"] != "temporal":
        return
    host = values["worker_temporal_host"]
    if not isinstance(host, str) or not fits(host, r"[^\s/]+:[0-9]+"):
        yield (
            "worker_temporal_host",
            f"worker_executor is temporal, and the address of Temporal is '{host}'. Put a host into the group "
            "temporal, which then gets a server, or set temporal_host to HOST:PORT of your own.",
        )
    extras = values.get("release_extras", values.get("worker_extras", ["temporal"]))
    if "temporal" not in listed(extras):
        yield (
            "worker_extras",
            f"worker_executor is temporal, and worker_extras is {shown(extras)}. Add temporal to it.",
        )


def mapping_rule(role, name, called):
    """Make a rule for a variable that is a mapping."""

    @rule(role)
    def is_mapping(values):
        if not isinstance(values[name], Mapping):
            yield name, f"{called} and is text or a list. On the command line it takes JSON: {example(name)}"


def example(name):
    """Return how a mapping is written on the command line."""
    if name == "redis_users":
        return """-e '{"orbiter_redis_users": {"worker": {"password": "..."}}}'."""
    return f"""-e '{{"{name}": {{"NAME": "value"}}}}'."""


for variable in (*ENVIRONMENTS, "worker_credentials", "worker_compose_service"):
    mapping_rule("worker", variable, f"{variable} must be a mapping of names to values,")


@rule("worker")
def gate_task(values):
    """The gate's task has an agent, and nothing that the gate would leave out."""
    task = values["worker_gate_task"]
    parts = {"agent": Mapping, "input": str, "metadata": Mapping}
    if (
        not isinstance(task, Mapping)
        or (task and "agent" not in task)
        or any(not isinstance(part, parts.get(name, ())) for name, part in task.items())
    ):
        yield (
            "worker_gate_task",
            f"worker_gate_task is {shown(task)}; it must be a mapping with agent, a mapping, and may have input, text, "
            "and metadata, a mapping, as in {agent: {runtime: callable, name: smoke, target: "
            '"package.module:function"}}. Empty means none.',
        )


@rule("worker")
def task_environment(values):
    """Tasks do not get what is the worker's alone."""
    given = values["worker_task_env"]
    refused = sorted(name for name in given if fits(name, NOT_FOR_TASKS)) if isinstance(given, Mapping) else ()
    if refused:
        yield (
            "worker_task_env",
            f"worker_task_env has {', '.join(refused)}; tasks do not get names that are the worker's alone: ORBITER_*, "
            "TEMPORAL_*, WATCHDOG_*, LISTEN_*, NOTIFY_SOCKET and CREDENTIALS_DIRECTORY. Put settings of the worker "
            "into worker_extra_env, and give tasks another name.",
        )


@rule("worker")
def environment_kinds(values):
    """Values arrive as they were written: Ansible would write None, True or 1.1."""
    added = added_environment(values)
    wrong = sorted(
        str(name) for name, value in added.items() if not isinstance(value, (str, int)) or isinstance(value, bool)
    )
    if wrong:
        yield (
            "worker_task_env",
            f"{', '.join(wrong)} in worker_task_env or worker_extra_env must be text or a whole number. What YAML "
            "takes for yes or no, nothing, a fraction or a list would not be what you wrote: put it in quotes, as in "
            'VERSION: "1.10".',
        )


@rule("worker")
def environment_size(values):
    """The environment is not too large to start a process with."""
    sizes = {name: len(str(value)) for name, value in added_environment(values).items()}
    if sum(sizes.values()) > 100000:
        yield (
            "worker_task_env",
            "worker_task_env and worker_extra_env are too large: more than 100 000 characters, and "
            f"{max(sizes, key=sizes.get)} has most of them. Put it into a file on the hosts, and its path here.",
        )


@rule("worker")
def settings_lines(values):
    """Each setting has a name that a shell can read, and is on one line."""
    added = added_environment(values)
    wrong = [
        str(name) for name in added if not fits(name, "[A-Za-z_][A-Za-z0-9_]*") or CONTROL.search(str(added[name]))
    ]
    wrong += [name for name in LINES if CONTROL.search(str(values[name]))]
    if wrong:
        yield (
            "worker_extra_env",
            f"{', '.join(wrong)}: an environment variable (worker_extra_env, worker_task_env, or made from a worker_ "
            "variable) needs a name of letters, digits and underscores, and a value on one line. Give tasks what has "
            "more lines, such as a key in PEM, as a file: worker_credentials.",
        )


@rule("worker")
def credentials(values):
    """Files of tasks have names that systemd takes, and hold text."""
    given = values["worker_credentials"] if isinstance(values["worker_credentials"], Mapping) else {}
    wrong = [
        name
        for name, text in given.items()
        if not fits(name, "[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}") or not isinstance(text, str) or not text
    ]
    if wrong:
        yield (
            "worker_credentials",
            f"worker_credentials has {json.dumps(wrong)}; each name must be 1 to 64 letters (a to z, A to Z), digits, "
            "or any of _ . - with no . or - first, and what it holds must be text that is not empty.",
        )
    if sum(len(str(text)) for text in given.values()) > 250000:
        yield (
            "worker_credentials",
            "worker_credentials holds more than 250 000 characters, which systemd does not take. Put what is no secret "
            "into the release, as package data.",
        )


@rule("worker")
def allow_imports(values):
    """Modules are a list of names."""
    module = r"\*|[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
    if any(not fits(name, module) for name in listed(values["worker_allow_imports"])):
        yield (
            "worker_allow_imports",
            f"worker_allow_imports is {values['worker_allow_imports']}; it must be a list of modules as Python imports "
            "them (my_agents, not my-agents), without blanks, quotes and brackets: [my_agents, other], or "
            "-e worker_allow_imports=my_agents,other.",
        )


@rule("worker")
def allow_models(values):
    """Models are a list of patterns."""
    pattern = r"[A-Za-z0-9*][A-Za-z0-9_.:@+/*-]{0,255}"
    if any(not fits(name, pattern) for name in listed(values["worker_allow_models"])):
        yield (
            "worker_allow_models",
            f"worker_allow_models is {values['worker_allow_models']}; it must be a list of patterns: [default], "
            "['openai:gpt-5*', test], ['*'], or -e worker_allow_models=default,ollama:*.",
        )


def tasks_own(values):
    """Return names in C(worker_extra_env) that are tasks' own."""
    given = values["worker_extra_env"]
    return (
        {str(name) for name in given if not fits(name, rf"{NOT_FOR_TASKS}|OTEL_.*")}
        if isinstance(given, Mapping)
        else set()
    )


# --- redis

# The role writes these itself, from variables of its own.
RESERVED = (
    *("aclfile", "bind", "dir", "include", "logfile", "pidfile", "port", "protected-mode", "requirepass"),
    *("tls-auth-clients", "tls-ca-cert-file", "tls-cert-file", "tls-key-file", "tls-port", "unixsocket"),
    *("unixsocketperm", "user"),
)
RESERVED_IN_GROUPS = (
    *("masterauth", "masteruser", "min-replicas-max-lag", "min-replicas-to-write", "replica-announce-ip"),
    *("replica-announce-port", "replicaof", "repl-diskless-sync-delay"),
)
# Redis does not slow down whoever guesses: short passwords are found.
PASSWORD_MINIMUM = 16
USER = r"[A-Za-z0-9_.-]+"


def rights():
    """Return whose rights a user of Redis can have."""
    return ("admin", *read_yaml("roles/redis/files/rights.yml")["rights"])


def users_of(values):
    """Return the users of Redis, none where that is no mapping."""
    return values["redis_users"] if isinstance(values["redis_users"], Mapping) else {}


def tenants(values):
    """Return the users of further namespaces, and what is wrong with these."""
    given = values["redis_namespaces"]
    rows = given if is_list(given) else []
    if not isinstance(given, str) and (not rows or not all(isinstance(one, Mapping) and "name" in one for one in rows)):
        return {"users": {}, "faults": []}  # none, or what is a matter of types
    return redis_namespaces(given, values["redis_namespace"], [str(one) for one in listed(values["redis_queues"])])


def settings_of(values):
    """Return the names of further settings of Redis."""
    given = values["redis_settings"]
    return {one.get("name") for one in given if isinstance(one, Mapping)} if is_list(given) else set()


def is_group(values):
    """Tell whether the host is one of a group."""
    return len(values["redis_members"]) > 1


@rule("redis")
def redis_password(values):
    """There is a password."""
    if not isinstance(values["redis_password"], str) or not values["redis_password"]:
        yield (
            "redis_password",
            "redis_password (orbiter_redis_password in the inventory) must be a password on one line. Set it in the "
            "inventory, in a vault: ansible-vault encrypt_string --name orbiter_redis_password",
        )


mapping_rule(
    "redis",
    "redis_users",
    "redis_users (orbiter_redis_users in the inventory) must be a mapping of names to users,",
)


@rule("redis")
def redis_namespace(values):
    """The namespace can be the first word of keys."""
    if not isinstance(values["redis_namespace"], str) or not fits(values["redis_namespace"], NAMESPACE):
        yield (
            "redis_namespace",
            f"redis_namespace (orbiter_namespace in the inventory) is {shown(values['redis_namespace'])}; it must be "
            f"{NAMESPACE_RULE}, and may be in braces. Take another name, such as acme.",
        )


@rule("redis")
def further_namespaces(values):
    """Namespaces and their users are in nobody's way."""
    faults = tenants(values)["faults"]
    if faults:
        yield "redis_namespaces", f"redis_namespaces: {'; '.join(faults)}."


@rule("redis")
def redis_users(values):
    """Users have rights that are known, and names that Redis takes."""
    made = tenants(values)["users"]
    unknown = [
        str(name)
        for name, user in users_of(values).items()
        if not fits(name, USER)
        or name in ("default", "admin")
        or not isinstance(user, Mapping)
        or user.get("rights", made.get(name, {}).get("rights", name)) not in rights()
    ]
    if unknown:
        yield (
            "redis_users",
            f"redis_users (orbiter_redis_users in the inventory) has {', '.join(unknown)}. A user must be named "
            f"worker, client or monitor, or have rights, one of {', '.join(rights())}. Name it so, or add rights. The "
            "names admin and default are taken.",
        )


@rule("redis")
def redis_worker_hosts(values):
    """Worker hosts' users are nobody else's."""
    given = values["redis_worker_hosts"]
    hosts = given.values() if isinstance(given, Mapping) else []
    users = (
        {host.get("user") for host in hosts if isinstance(host, Mapping)}
        if yes(values["redis_user_per_host"])
        else set()
    )
    twice = sorted(users & tenants(values)["users"].keys())
    if twice:
        yield (
            "redis_worker_hosts",
            f"Redis would have two users of one name, {', '.join(twice)}: one for a worker host, and one for a "
            "client of redis_namespaces. Rename the host, the namespace or its client.",
        )


@rule("redis")
def redis_dashboards(values):
    """The dashboard's users are nobody else's."""
    given = values["redis_dashboards"]
    hosts = given.values() if isinstance(given, Mapping) else []
    users = {host.get("user") for host in hosts if isinstance(host, Mapping)}
    twice = sorted(users & tenants(values)["users"].keys())
    if twice:
        yield (
            "redis_dashboards",
            f"Redis would have two users of one name, {', '.join(twice)}: one for the dashboard, and one for a "
            "client of redis_namespaces. Rename that client.",
        )


@rule("redis")
def weak_passwords(values):
    """No password is weak."""
    users = {"admin": {"password": values["redis_password"]}, **users_of(values)}
    weak = []
    for name, user in users.items():
        password = user.get("password", "") if isinstance(user, Mapping) else ""
        if (
            not isinstance(password, str)
            or len(password) < PASSWORD_MINIMUM
            or len(set(password)) < 8
            or CONTROL.search(password)
        ):
            weak.append(str(name))
    if weak:
        yield (
            "redis_users",
            f"the Redis password of {', '.join(weak)} is missing or weak: it needs {PASSWORD_MINIMUM} characters or "
            "more on one line, 8 of them different. Make one: openssl rand -hex 24",
        )


@rule("redis")
def same_passwords(values):
    """No two passwords are the same."""
    passwords = [values["redis_password"]]
    passwords += [user.get("password", "") for user in users_of(values).values() if isinstance(user, Mapping)]
    if len({str(one) for one in passwords}) < len(passwords):
        yield (
            "redis_users",
            "two users of Redis have the same password (orbiter_redis_password and orbiter_redis_users), so that who "
            "knows one of them is the other as well. Give each its own.",
        )


@rule("redis")
def user_borders(values):
    """Namespaces and queues of users can be such."""
    odd = []
    for name, user in users_of(values).items():
        if isinstance(user, Mapping):
            queues = user.get("queues", [])
            pattern = rf"(\{{[A-Za-z0-9_.-]{{1,64}}\}}:)?{QUEUE}"
            if (
                not fits(user.get("namespace", "orbiter"), NAMESPACE)
                or not is_list(queues)
                or any(not fits(queue, pattern) for queue in queues)
            ):
                odd.append(str(name))
    if odd:
        yield (
            "redis_users",
            f"redis_users (orbiter_redis_users in the inventory) has {', '.join(odd)} with a namespace or queues of "
            f"the wrong form. A namespace must be {NAMESPACE_RULE}, and may be in braces. Queues must be a list of "
            f"names, each {QUEUE_RULE}",
        )


@rule("redis")
def scripts(values):
    """Scripts are named by their hashes."""
    given = values["redis_client_scripts_extra"]
    if any(not fits(one, "[0-9a-f]{40}") for one in listed(given)):
        yield (
            "redis_client_scripts_extra",
            f"redis_client_scripts_extra is {shown(given)}; a script is named by its SHA-1, 40 hexadecimal digits in "
            "lower case. Of a release, roles/redis/files/client_scripts.json has the scripts.",
        )


@rule("redis")
def redis_queues(values):
    """Queues have names that keys can have."""
    given = values["redis_queues"]
    queues = listed(given)
    if not queues or any(not fits(queue, r'[^][{}"\s]+') for queue in queues):
        yield (
            "redis_queues",
            f"redis_queues is {given}; it must be a list of one or more names, without blanks, quotes and brackets: "
            "[orbiter:tasks, other], or -e redis_queues=orbiter:tasks,other.",
        )
    elif any(not fits(queue, QUEUE) for queue in queues):
        yield "redis_queues", f"redis_queues is {shown(given)}; a queue's name must be {QUEUE_RULE}"


@rule("redis")
def redis_numbers(values):
    """The port is one, and there may be clients."""
    if not 1 <= whole(values["redis_port"]) <= 65535 or whole(values["redis_maxclients"]) <= 0:
        yield (
            "redis_port",
            f"redis_port is {values['redis_port']} and redis_maxclients is {values['redis_maxclients']}; the port must "
            "be 1 to 65535 and the number of clients above 0.",
        )


@rule("redis")
def redis_settings(values):
    """The role's own settings are left to it."""
    if settings_of(values) & set(RESERVED):
        yield (
            "redis_settings",
            f"redis_settings may not name {', '.join(RESERVED)}: the role writes these itself, from redis_bind, "
            "redis_port, redis_users, redis_password and redis_tls.",
        )


@rule("redis")
def redis_tls(values):
    """TLS has a port, and all of its files or none."""
    if not yes(values["redis_tls"]):
        return
    tls_port, port = values["redis_tls_port"], values["redis_port"]
    if not 1 <= whole(tls_port) <= 65535 or (whole(tls_port) == whole(port) and yes(values["redis_tls_beside"])):
        yield (
            "redis_tls_port",
            f"redis_tls_port is {tls_port}, and must be 1 to 65535; with redis_tls_beside, which leaves redis_port "
            f"({port}) open without TLS, it must be another port than that.",
        )
    files = [one for one in (values[f"redis_tls_{kind}"] for kind in ("cert", "key", "ca")) if one]
    if len(files) not in (0, 3) or not all(Path(one).is_file() for one in files):
        yield (
            "redis_tls_cert",
            "redis_tls_cert, redis_tls_key and redis_tls_ca must be files on this machine, all three; or none of them, "
            "and the fleet makes an authority of its own.",
        )


@rule("redis")
def sentinel_tls(values):
    """The sentinels have a port for TLS, and another one while both are open."""
    if not is_group(values) or not yes(values["redis_tls"]):
        return
    tls_port, port = values["redis_sentinel_tls_port"], values["redis_sentinel_port"]
    taken = {whole(values["redis_port"]), whole(values["redis_tls_port"])}
    taken |= {whole(port)} if yes(values["redis_tls_beside"]) else set()
    if not 1 <= whole(tls_port) <= 65535 or whole(tls_port) in taken:
        yield (
            "redis_sentinel_tls_port",
            f"redis_sentinel_tls_port is {tls_port}, and must be 1 to 65535, and a port other than redis_port "
            f"({values['redis_port']}) and redis_tls_port ({values['redis_tls_port']}); with redis_tls_beside, which "
            f"leaves redis_sentinel_port ({port}) open without TLS, another one than that, too.",
        )


@rule("redis")
def members(values):
    """A group has an odd number of members, and each an address of its own."""
    if not is_group(values):
        return
    addresses = [str(one) for one in values["redis_members"]]
    if len(addresses) < 3 or len(addresses) % 2 == 0:
        yield (
            "redis_members",
            f"the group has {len(addresses)} Redis hosts; it must be 1, for a single server, or 3, 5, 7 for one that "
            "survives failures. After a failure more than half must still be there to choose a new master: 2 survive "
            "none, and an even number survives no more than one host fewer. Add a host or take one out.",
        )
    told = all(fits(one, ADDRESS) for one in addresses) and len(set(addresses)) == len(addresses)
    if not told or values["redis_bind"] not in addresses:
        yield (
            "redis_bind",
            "the Redis hosts of a group find each other by redis_bind, and these are "
            f"{', '.join(repr(one) for one in addresses)}. Set redis_bind of each Redis host to its own IP address in "
            "the fleet's network.",
        )


@rule("redis")
def sentinel(values):
    """Settings of replication can be such."""
    if not is_group(values):
        return
    most = len(values["redis_members"]) - 1
    service, port = values["redis_sentinel_service"], values["redis_sentinel_port"]
    replicas = values["redis_min_replicas_to_write"]
    down, failover = values["redis_sentinel_down_after"], values["redis_sentinel_failover_timeout"]
    if (
        not fits(service, "[A-Za-z0-9._-]+")
        or not 1 <= whole(port) <= 65535
        or whole(port) == whole(values["redis_port"])
        or not 0 <= whole(replicas, -1) <= most
        or not number(failover) > number(down) > 0
    ):
        yield (
            "redis_sentinel_service",
            f"redis_sentinel_service ({service}) must be letters, digits and . _ -; redis_sentinel_port ({port}) a "
            f"port other than redis_port ({values['redis_port']}); redis_min_replicas_to_write ({replicas}) 0 to "
            f"{most}; redis_sentinel_down_after ({down} s) above 0 and below redis_sentinel_failover_timeout "
            f"({failover} s).",
        )


@rule("redis")
def sentinel_password(values):
    """Sentinels have a password."""
    if is_group(values):
        password = values["redis_sentinel_password"]
        if not isinstance(password, str) or not password or CONTROL.search(password):
            yield (
                "redis_sentinel_password",
                "redis_sentinel_password must be a password on one line. Left alone, site.yml derives it from "
                "orbiter_redis_password.",
            )


@rule("redis")
def group_settings(values):
    """The role's own settings of replication are left to it."""
    if is_group(values) and settings_of(values) & set(RESERVED_IN_GROUPS):
        yield (
            "redis_settings",
            f"redis_settings may not name {', '.join(RESERVED_IN_GROUPS)} of a group of Redis hosts: the role writes "
            "these itself. For min-replicas-… there are redis_min_replicas_to_write and redis_min_replicas_max_lag.",
        )


# --- temporal


@rule("temporal")
def temporal_numbers(values):
    """The port is one, and the gate waits."""
    if not 1 <= whole(values["temporal_port"]) <= 65535 or whole(values["temporal_gate_timeout"]) <= 0:
        yield (
            "temporal_port",
            f"temporal_port is {values['temporal_port']} and temporal_gate_timeout is "
            f"{values['temporal_gate_timeout']}; the port must be 1 to 65535 and the seconds above 0.",
        )


@rule("temporal")
def temporal_operators(values):
    """Operators have names that files can have."""
    wrong = [
        str(name) for name in listed(values["temporal_operators"]) if not fits(name, "[A-Za-z0-9][A-Za-z0-9._-]{0,50}")
    ]
    if wrong:
        yield (
            "temporal_operators",
            f"temporal_operators has {', '.join(wrong)}; a name is letters, digits, dots, dashes and underscores, 51 "
            "at most, such as anna.",
        )


@rule("temporal")
def temporal_namespace(values):
    """The namespace has a name that Temporal takes."""
    given = values["temporal_namespace"]
    if not isinstance(given, str) or not fits(given, "[A-Za-z0-9][A-Za-z0-9._-]+"):
        yield (
            "temporal_namespace",
            f"temporal_namespace is '{given}'; it must be two or more letters, digits, dots, dashes and underscores, "
            "such as default.",
        )


# --- monitoring

DURATION = "[1-9][0-9]*(ms|[smhdwy])"
DURATIONS = (
    *("monitoring_retention", "monitoring_scrape_interval"),
    *("monitoring_group_wait", "monitoring_group_interval", "monitoring_repeat_interval"),
)
MONITORING_PORTS = ("", "alertmanager_", "redis_exporter_", "node_exporter_")


@rule("monitoring")
def monitoring_ports(values):
    """Each program has a port of its own."""
    names = [f"monitoring_{name}port" for name in MONITORING_PORTS]
    ports = [whole(values[name]) for name in names]
    if not all(1 <= port <= 65535 for port in ports) or len(set(ports)) < len(ports):
        given = ", ".join(f"{name} {values[name]}" for name in names)
        yield "monitoring_port", f"{given}: each must be a port, 1 to 65535, and another one than the others are."
    if whole(values["monitoring_gate_timeout"]) <= 0:
        yield (
            "monitoring_gate_timeout",
            f"monitoring_gate_timeout is {values['monitoring_gate_timeout']}; it must be seconds above 0, such as 60.",
        )


def duration_rule(name):
    """Make a rule for a variable that is a time as Prometheus writes it."""

    @rule("monitoring")
    def is_duration(values):
        if not fits(values[name], DURATION):
            yield (
                name,
                f"{name} is '{values[name]}'; it must be a whole number with a unit, such as 30s, 5m, 4h or 15d.",
            )


for variable in DURATIONS:
    duration_rule(variable)


@rule("monitoring")
def monitoring_size(values):
    """What Prometheus stores has an end."""
    if not fits(values["monitoring_retention_size"], "[1-9][0-9]*[KMGTP]?B"):
        yield (
            "monitoring_retention_size",
            f"monitoring_retention_size is '{values['monitoring_retention_size']}'; it must be a whole number with a "
            "unit, such as 500MB or 5GB.",
        )


@rule("monitoring")
def monitoring_receivers(values):
    """Who is told of alerts can be told. URLs are not shown: who knows them can write there."""
    for name, all_urls in (
        ("monitoring_webhook_urls", listed(values["monitoring_webhook_urls"])),
        ("monitoring_slack_url", [values["monitoring_slack_url"]]),
        ("monitoring_grafana_url", [values["monitoring_grafana_url"]]),
    ):
        if any(url and not fits(url, r"https?://[^\s/]+(/\S*)?") for url in all_urls):
            yield name, f"{name} has what is not a URL; it must begin with https:// or http:// and name a host."
    if values["monitoring_grafana_url"] and not values["monitoring_grafana_token"]:
        yield (
            "monitoring_grafana_token",
            "monitoring_grafana_token is missing, and monitoring_grafana_url is set. Make a service account in Grafana "
            "that may write dashboards, and put its token into the vault.",
        )


@rule("monitoring")
def monitoring_mail(values):
    """Mail has a sender and a server."""
    if not listed(values["monitoring_mail_to"]):
        return
    sender, smarthost = values["monitoring_mail_from"], values["monitoring_mail_smarthost"]
    if not sender or not fits(smarthost, r"\S+:[0-9]+"):
        yield (
            "monitoring_mail_to",
            f"monitoring_mail_to is set, so monitoring_mail_from ('{sender}') must be an address, and "
            f"monitoring_mail_smarthost ('{smarthost}') a server that takes mail, HOST:PORT.",
        )
    if bool(values["monitoring_mail_username"]) != bool(values["monitoring_mail_password"]):
        yield (
            "monitoring_mail_username",
            "monitoring_mail_username and monitoring_mail_password go together, and only one of them is set.",
        )


@rule("monitoring")
def monitoring_access(values):
    """Who may read in Prometheus has a hash, and TLS two files."""
    users = values["monitoring_users"]
    if not isinstance(users, Mapping) or not all(
        fits(name, r"[^:\s]+") and fits(hashed, r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
        for name, hashed in users.items()
    ):
        yield (
            "monitoring_users",
            "monitoring_users must be a mapping of users' names to bcrypt hashes of their passwords. `htpasswd -nBC 10 "
            "NAME` prints one.",
        )
    files = [values[f"monitoring_tls_{one}"] for one in ("cert", "key")]
    given = [one for one in files if one]
    if len(given) == 1 or not all(Path(one).is_file() for one in given):
        yield (
            "monitoring_tls_cert",
            "monitoring_tls_cert and monitoring_tls_key must be files on this machine, both; or neither of them, for "
            "no TLS.",
        )


def node_exporter(values):
    """The node exporter of a worker or Redis host has an address and a port."""
    port = values["monitoring_node_exporter_port"]
    if not 1 <= whole(port) <= 65535:
        yield (
            "monitoring_node_exporter_port",
            f"monitoring_node_exporter_port is {port}; it must be a port, 1 to 65535, such as 9100.",
        )
    bind = values["monitoring_node_exporter_bind"]
    if not fits(bind, ADDRESS):
        yield (
            "monitoring_node_exporter_bind",
            f"monitoring_node_exporter_bind is '{bind}'; it must be an address of the host, such as 10.0.0.11.",
        )
    address = values["monitoring_node_exporter_address"]
    if not fits(address, rf"{ADDRESS}|[A-Za-z0-9_.-]+"):
        yield (
            "monitoring_node_exporter_address",
            f"monitoring_node_exporter_address is '{address}'; it must be a host's name or address, without a port.",
        )


# --- dashboard

# As `orbiter dashboard` takes them, and the unit's command line.
DASHBOARD_USER = "[A-Za-z0-9_.@-]{1,64}"
HASH = r"scrypt\$[A-Za-z0-9+/=]{16,}\$[A-Za-z0-9+/=]{32,}"
HEADER = "[A-Za-z][A-Za-z0-9-]{0,63}"
# A browser or a proxy sends these of its own accord.
NO_NAMES = "host|cookie|origin|referer|user-agent|accept|connection|content-type|forwarded"
MONITORING_DEFAULTS = {"": 9090, "alertmanager_": 9093, "redis_exporter_": 9121, "node_exporter_": 9100}


@rule("dashboard")
def dashboard_port(values):
    """The port is nobody else's, and the gate waits."""
    port = whole(values["dashboard_port"])
    others = {
        f"monitoring_{name}port": values.get(f"monitoring_{name}port", MONITORING_DEFAULTS[name])
        for name in MONITORING_PORTS
    }
    taken = [name for name, other in others.items() if whole(other) == port]
    if not 1 <= port <= 65535 or taken:
        yield (
            "dashboard_port",
            f"dashboard_port is {values['dashboard_port']}{' as is ' + taken[0] if taken else ''}; it must be a port, "
            "1 to 65535, that no other program of the host has, such as 8420.",
        )
    if whole(values["dashboard_gate_timeout"]) <= 0:
        yield (
            "dashboard_gate_timeout",
            f"dashboard_gate_timeout is {values['dashboard_gate_timeout']}; it must be seconds above 0, such as 60.",
        )


@rule("dashboard")
def dashboard_bind(values):
    """Whoever reaches the dashboard has to be known."""
    bind = values["dashboard_bind"]
    if not fits(bind, r"([0-9]{1,3}\.){3}[0-9]{1,3}"):
        yield "dashboard_bind", f"dashboard_bind is '{bind}'; it must be an IPv4 address of the host, or 127.0.0.1."
    elif not str(bind).startswith("127.") and not values["dashboard_users"] and not values["dashboard_proxy_header"]:
        yield (
            "dashboard_bind",
            f"dashboard_bind is {bind}, and others than the host itself could look at the fleet. Set dashboard_users, "
            "or dashboard_proxy_header with dashboard_proxy_from; or leave it at 127.0.0.1 and use an SSH tunnel.",
        )


@rule("dashboard")
def dashboard_users(values):
    """Who logs in has a name, and a hash of a password."""
    users = values["dashboard_users"]
    wrong = (
        [str(name) for name, line in users.items() if not fits(name, DASHBOARD_USER) or not is_hash(name, line)]
        if isinstance(users, Mapping)
        else ["what is no mapping"]
    )
    if wrong:
        yield (
            "dashboard_users",
            f"dashboard_users has {', '.join(wrong)}; it must be a mapping of users' names (1 to 64 letters, digits, "
            "or any of _ . @ -) to what `orbiter dashboard --hash-password NAME` prints: scrypt$...",
        )


def is_hash(name, line):
    """Tell whether a value is a hash of a password, or the line of the password file that this user has."""
    return fits(str(line).removeprefix(f"{name}:"), HASH)


@rule("dashboard")
def dashboard_proxy(values):
    """A proxy's word counts from addresses that are named, in a header of its own."""
    header, proxies = values["dashboard_proxy_header"], listed(values["dashboard_proxy_from"])
    wrong = [str(one) for one in proxies if not NETWORK.fullmatch(str(one)) or str(one).endswith("/0")]
    if (
        bool(header) != bool(proxies)
        or wrong
        or (header and (not fits(header, HEADER) or fits(str(header).lower(), NO_NAMES)))
    ):
        yield (
            "dashboard_proxy_header",
            f"dashboard_proxy_header is '{header}' and dashboard_proxy_from {shown(proxies)}; they go together, or "
            "both are empty: a header of its own, such as X-Remote-User, and addresses or networks of proxies, such as "
            "[10.0.0.2].",
        )


@rule("dashboard")
def dashboard_hosts(values):
    """Names by which browsers call the dashboard are such."""
    names = listed(values["dashboard_allow_hosts"])
    wrong = [str(name) for name in names if not fits(name, "[A-Za-z0-9._-]{1,253}")]
    if wrong:
        yield (
            "dashboard_allow_hosts",
            f"dashboard_allow_hosts has {', '.join(wrong)}; a name is letters, digits, or any of . _ -, without a "
            "port, such as fleet.example.net.",
        )


@rule("dashboard")
def dashboard_tls(values):
    """TLS has a certificate and its key."""
    files = [values[f"dashboard_tls_{one}"] for one in ("cert", "key")]
    given = [one for one in files if one]
    if len(given) == 1 or not all(Path(one).is_file() for one in given):
        yield (
            "dashboard_tls_cert",
            "dashboard_tls_cert and dashboard_tls_key must be files on this machine, both; or neither of them, for no "
            "TLS.",
        )


@rule("dashboard")
def dashboard_redis(values):
    """The dashboard knows where the queue is."""
    url = values["dashboard_redis_url"]
    if (
        not isinstance(url, str)
        or not re.match(r"(rediss?([+](sentinel|cluster))?|unix)://.", url)
        or CONTROL.search(url)
    ):
        yield (
            "dashboard_redis_url",
            "dashboard_redis_url must be a URL such as redis://dashboard:PASSWORD@redis1:6379/0 (or rediss://, "
            "unix://, redis+sentinel://, redis+cluster://). site.yml makes it from the Redis hosts of the inventory; "
            "for a Redis that is somebody else's, set it.",
        )


@rule("dashboard")
def dashboard_names(values):
    """Namespace and queue have names that keys can have."""
    namespace, queue = values["dashboard_namespace"], values["dashboard_queue"]
    if not fits(namespace, NAMESPACE):
        yield (
            "dashboard_namespace",
            f"dashboard_namespace (orbiter_namespace in the inventory) is {shown(namespace)}; it must be "
            f"{NAMESPACE_RULE}, and may be in braces.",
        )
    if not fits(str(queue).removeprefix(f"{namespace}:"), QUEUE):
        yield "dashboard_queue", f"dashboard_queue is {shown(queue)}; it must be {QUEUE_RULE}"


@rule("dashboard")
def dashboard_memory(values):
    """The limit of memory is one."""
    if not fits(values["dashboard_memory_max"], "[1-9][0-9]*[KMGT]?"):
        yield (
            "dashboard_memory_max",
            f"dashboard_memory_max is {values['dashboard_memory_max']}; it must be bytes, or a whole number with a "
            "unit of systemd, such as 512M.",
        )


# --- the fleet

# The members of a group are one Redis.
AGREED = (
    *(
        "redis_flavor",
        "redis_port",
        "redis_tls",
        "redis_tls_port",
        "redis_tls_beside",
        "redis_sentinel_tls_port",
        "redis_user_per_host",
        "redis_password",
        "redis_users",
        "redis_namespace",
        "redis_namespaces",
        "redis_queues",
    ),
    *("redis_sentinel_service", "redis_sentinel_port", "redis_sentinel_password", "redis_sentinel_reader_password"),
)


def canary(values):
    """Yield what is wrong with the number of hosts that change first."""
    hosts = values.get("orbiter_canary", 0)
    if not fits(hosts, "[0-9]+"):
        yield (
            "orbiter_canary",
            f"orbiter_canary is {hosts}; it must be a whole number, 0 or more, of worker hosts that change first.",
        )


def firewall(values):
    """Yield what is wrong with what the firewall is told."""
    wanted = values.get("orbiter_firewall", True)
    clients, each = values.get("orbiter_firewall_clients", []), values.get("orbiter_firewall_connections", 0)
    if (
        not is_boolean(wanted)
        or not is_list(clients)
        or any(not NETWORK.fullmatch(str(one)) for one in clients)
        or not fits(each, "[0-9]+")
    ):
        yield (
            "orbiter_firewall",
            f"orbiter_firewall is {wanted} and must be true or false; orbiter_firewall_clients is {shown(clients)} and "
            "must be a list of addresses and networks, such as [10.0.0.0/24]; orbiter_firewall_connections is "
            f"{each} and must be a number, 0 for no limit.",
        )


def served(values, redis):
    """Yield what of a worker host Redis has no users for, or none that may use its queue.

    Args:
        values: The values of the worker host.
        redis: The values of the first Redis host.
    """
    own, namespace = redis["redis_namespace"], values["worker_namespace"]
    if namespace != own:
        worker = re.sub("[{}]", "", str(namespace)) + "-worker"
        given = redis["redis_namespaces"]
        known = [one.get("name") for one in given if isinstance(one, Mapping)] if is_list(given) else []
        if worker not in users_of(redis) and namespace not in known:
            yield (
                "worker_namespace",
                f"its namespace is {namespace}, and Redis has users for {own} (orbiter_namespace of the Redis hosts) "
                "and what redis_namespaces names. Name it there: redis_namespaces: "
                f"[{{name: {shown(namespace)}}}]",
            )
        return
    queues = [whole_queue(own, queue) for queue in listed(redis["redis_queues"])]
    queue = whole_queue(own, values["worker_queue"])
    if queue not in queues:
        yield (
            "worker_queue",
            f"worker_queue is {queue}, and Redis' users may use {', '.join(queues)} only (redis_queues of the Redis "
            "hosts). Add it there.",
        )


def watched(values, redis):
    """Yield what of a dashboard Redis has no user for, or none that may use its queue.

    Args:
        values: The values of the host that serves it.
        redis: The values of the first Redis host.
    """
    own, namespace, queue = redis["redis_namespace"], values["dashboard_namespace"], values["dashboard_queue"]
    known = {one["namespace"]: one["queues"] for one in tenants(redis)["users"].values()}
    known[own] = listed(redis["redis_queues"])
    if namespace not in known:
        yield (
            "dashboard_namespace",
            f"its namespace is {namespace}, and Redis has users for {', '.join(map(str, known))}. Name it in "
            f"redis_namespaces of the Redis hosts: [{{name: {shown(namespace)}}}]",
        )
        return
    queues = [whole_queue(namespace, one) for one in known[namespace]]
    if whole_queue(namespace, queue) not in queues:
        yield (
            "dashboard_queue",
            f"dashboard_queue is {whole_queue(namespace, queue)}, and Redis' users may use {', '.join(queues)} only "
            "(redis_queues of the Redis hosts, or the queues in redis_namespaces). Name one of these, or add it there.",
        )


def whole_queue(namespace, queue):
    """Return the name of a queue with the namespace before it."""
    return str(queue) if str(queue).startswith(f"{namespace}:") else f"{namespace}:{queue}"


def agreed(all_values):
    """Yield settings of a group's members that differ, by the first host that differs.

    Args:
        all_values: The values of each Redis host by its name.
    """
    hosts = list(all_values)
    for name in AGREED:
        for host in hosts[1:]:
            if all_values[host][name] != all_values[hosts[0]][name]:
                yield (
                    host,
                    name,
                    f"{name} is not the same as that of {hosts[0]}, and the members of a group of Redis hosts are one "
                    "Redis. Set it once, for the group.",
                )
                break

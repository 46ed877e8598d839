# What `up` and `down` share; read by them, not run.

# A file that says that a folder is of a farm, and may go.
# shellcheck disable=SC2034
mark=sanafarm-local

# Where everything of the farm lies.
default_folder() {
    printf '%s\n' "${TMPDIR:-/tmp}/sanafarm-local-$(id -u)"
}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Whether the process of a pid file lives, and is still the one that was started.
alive() {
    local pid start
    read -r pid start <"$1" || return 1
    # One that had ended before its start was looked at has none.
    [[ -n $start && $(start_of "$pid") == "$start" ]]
}

# When a process started, in ticks since the machine did; nothing when it is gone or has ended.
start_of() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    # Its name may hold anything; the state is the first word behind it, the start the twentieth.
    # shellcheck disable=SC2206
    local words=(${stat##*) })
    [[ ${words[0]} == Z ]] || printf '%s\n' "${words[19]}"
}

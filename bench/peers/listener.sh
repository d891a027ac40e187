#!/bin/sh
# Stands before the runner's listener: notes when it is executed, and becomes it. With FLOOD it is a
# listener whose job prints the file FLOOD sixteen times, and notes how long that took.
if [ "$1" = run ]; then
    date +%s.%N >/bench/exec
    if [ -n "${FLOOD:-}" ]; then
        echo '√ Connected to GitHub'
        echo "$(date -u '+%Y-%m-%d %H:%M:%SZ'): Listening for Jobs"
        echo "$(date -u '+%Y-%m-%d %H:%M:%SZ'): Running job: flood"
        date +%s.%N >/bench/flood-begin
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
            cat "$FLOOD"
        done
        date +%s.%N >/bench/flood-end
        echo "$(date -u '+%Y-%m-%d %H:%M:%SZ'): Job flood completed with result: Succeeded"
        exit 0
    fi
fi
exec /home/runner/bin/Runner.Listener.real "$@"

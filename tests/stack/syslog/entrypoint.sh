#!/bin/sh
# Stands for the entrypoint of aws-for-fluent-bit: reads the files that aws_fluent_bit_init_file_…
# name, as far as they say where sockets are, and lets rsyslog do what they describe.
set -eu
for file in $(env | sed -n 's/^aws_fluent_bit_init_file_[0-9]*=//p'); do
    case $file in
        */parsers.conf) ;;
        */task.conf) role=task config=$file ;;
        */host.conf | */local.conf) role=host config=$file ;;
        *) echo "stand-in: no such role: $file" >&2; exit 1 ;;
    esac
    test -r "$file" || { echo "stand-in: cannot open $file" >&2; exit 1; }
done
field() { awk -v name="$1" 'tolower($1) == tolower(name) { print $2 }' "$config"; }
forward=$(field Unix_Path)
{
    echo 'module(load="imuxsock" SysSock.Use="off")'
    if [ "$role" = task ]; then
        # Fluent Bit calls a datagram socket unix_udp. The format is the one of the parser.
        test "$(field Mode)" = unix_udp
        test "$(field Parser)" = docker-rfc5424
        cat <<CONF
module(load="omuxsock")
input(type="imuxsock" Socket="$(field Path)" UseSpecialParser="off" ParseHostname="on"
      RateLimit.Interval="0")
template(name="record" type="list") {
    constant(value="{\"container\":\"") property(name="app-name" format="json")
    constant(value="\",\"task\":\"$ECS_TASK_ID\",\"message\":\"")
    property(name="msg" format="json") constant(value="\"}")
}
\$OMUxSockSocket $forward
*.* :omuxsock:;record
CONF
    else
        cat <<CONF
input(type="imuxsock" Socket="$forward" UseSpecialParser="off" RateLimit.Interval="0")
template(name="line" type="string" string="%rawmsg%\n")
action(type="omfile" file="/dev/stdout" template="line")
CONF
    fi
} >/etc/rsyslog.conf
exec rsyslogd -n -f /etc/rsyslog.conf

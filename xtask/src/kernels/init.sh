#!/bin/busybox sh
# The first process of a guest: client, relay and peer in network namespaces, joined by virtio-net
# interfaces. Says what happened in lines that begin with "@@ "; judges nothing.

/bin/busybox mkdir -p /proc /sys /dev /tmp /run/netns /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/turnpike:/sbin:/bin:/usr/sbin:/usr/bin
umask 077
ulimit -n 65536
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

say() { echo "@@ $*"; }
finish() {
    say "end $1 $(cut -d. -f1 /proc/uptime)"
    # qemu runs with -no-reboot: this ends it, without ACPI.
    reboot -f
}
must() { "$@" || { echo "failed: $*"; finish failed; }; }
# By full path: this shell has an `ip` of its own, which knows no namespaces.
ip() { /sbin/ip "$@"; }

say "kernel $(uname -r)"
while read -r module; do must insmod "/modules/$module"; done </modules/order

xtask verify --object /turnpike/object --budget /turnpike/budget.toml >/tmp/verify 2>&1
cat /tmp/verify
say "verified $(grep -c '^verify: passed' /tmp/verify)" \
    "$(awk '$2 == "verified_instructions" { sum += $3 } END { print sum + 0 }' /tmp/verify)"

for name in client relay peer; do
    must ip netns add "$name"
    must ip -n "$name" link set lo up
    # Without duplicate address detection: an address that is new could not be used for a second.
    for which in all default; do
        must ip netns exec "$name" sysctl -qw "net.ipv6.conf.$which.accept_dad=0"
    done
done

# address INTERFACE NAMESPACE NET HOST
address() {
    must ip -n "$2" address add "10.77.$3.$4/24" dev "$1"
    must ip -n "$2" address add "fd77:$3::$4/64" dev "$1"
    must ip -n "$2" link set "$1" up
}
# nic INTERFACE NAMESPACE NET HOST
nic() {
    must ip link set "$1" netns "$2"
    address "$@"
}
# vlan PARENT NAMESPACE TAG PROTOCOL NET HOST
vlan() {
    must ip -n "$2" link add link "$1" name "$1.$3" type vlan id "$3" protocol "$4"
    address "$1.$3" "$2" "$5" "$6"
}
# Cables: eth0 - eth1 and eth2 - eth3. Nets 1 and 2 are untagged, 3 and 5 have one tag, 4 the outer
# tag of two, and 6 both.
nic eth0 client 1 2
nic eth1 relay 1 1
nic eth2 relay 2 1
nic eth3 peer 2 2
vlan eth0 client 100 802.1Q 3 2
vlan eth1 relay 100 802.1Q 3 1
vlan eth2 relay 200 802.1ad 4 1
vlan eth3 peer 200 802.1ad 4 2
vlan eth2 relay 300 802.1Q 5 1
vlan eth3 peer 300 802.1Q 5 2
vlan eth2.200 relay 400 802.1Q 6 1
vlan eth3.200 peer 400 802.1Q 6 2
say "driver $(ip netns exec relay ethtool -i eth1 | sed -n 's/^driver: //p')"

page() { ip netns exec relay wget -q -O - "http://127.0.0.1:9641/$1"; }
# sum PATTERN: of the values of a page's lines that match.
sum() { awk "/$1/ { sum += \$2 } END { print sum + 0 }" /tmp/metrics; }
# figure KEY: of the load tool's report.
figure() { sed -n "s/^  \"$1\": \([0-9]*\),*\$/\1/p" /tmp/load.json; }

# leg NAME SERVER-FAMILY SERVER-NET PEER-FAMILY PEER-NET
leg() {
    cat >/tmp/turnpike.toml <<END
realm = "kernels.test"
[listen]
udp = ["10.77.$3.1:3478", "[fd77:$3::1]:3478"]
[relay]
addresses = ["10.77.$5.1", "fd77:$5::1"]
[auth]
users = { alice = "wonderland" }
[peers]
allow = ["10.77.0.0/16", "fd77::/16"]
[datapath]
mode = "native"
interfaces = ["eth1", "eth2"]
[metrics]
listen = "127.0.0.1:9641"
[limits]
allocations_max = 16
END
    server=10.77.$3.1 peer=10.77.$5.2:9000
    if [ "$2" = 6 ]; then server="[fd77:$3::1]"; fi
    if [ "$4" = 6 ]; then peer="[fd77:$5::2]:9000"; fi

    # Not through the function: $! is to be the program.
    /sbin/ip netns exec relay turnpike serve --config /tmp/turnpike.toml &
    turnpike=$!
    /sbin/ip netns exec peer relay-bench echo --listen "$peer" >/tmp/echo 2>&1 &
    echo=$!
    until page readyz >/dev/null 2>&1; do
        kill -0 $turnpike 2>/dev/null || { echo "turnpike ended"; finish failed; }
        sleep 0.1
    done
    until grep -q 'echo peer on' /tmp/echo; do
        kill -0 $echo 2>/dev/null || { cat /tmp/echo; finish failed; }
        sleep 0.1
    done

    # Neighbours are known from here on; before that, the first packets rightly take the long way.
    for end in "10.77.$3.2" "fd77:$3::2" "10.77.$5.2" "fd77:$5::2"; do
        must ip netns exec relay ping -q -c 1 -W 30 "$end" >/dev/null
    done
    # Next hops are resolved beside the traffic, and a guest is slow: one flow goes ahead, and the
    # others find them resolved.
    /sbin/ip netns exec client relay-bench load "turn:$server" --user alice --password wonderland \
        --peer "$peer" --rate 1 --duration 10m --stall 60000 --quiet >/dev/null &
    ahead=$!
    until page metrics >/tmp/metrics && grep -q '^turnpike_next_hops.*"resolved"} 2' /tmp/metrics; do
        kill -0 $ahead 2>/dev/null || { echo "the flow that goes ahead ended"; finish failed; }
        sleep 0.1
    done
    ip netns exec client relay-bench load "turn:$server" --user alice --password wonderland \
        --peer "$peer" --allocations 4 --rate 25 --duration 3s --drain 30000 --stall 60000 \
        --json /tmp/load.json --quiet
    load=$?
    page metrics >/tmp/metrics
    kill -INT $ahead
    wait $ahead
    grep '^turnpike_xdp_verdicts_total.* [1-9]' /tmp/metrics
    kill $turnpike $echo
    wait $echo
    wait $turnpike
    stopped=$?
    say "leg $1 load-exit $load turnpike-exit $stopped" \
        "native $(sum '^turnpike_datapath_mode.*mode="native"')" \
        "sent $(figure sent) lost $(figure lost)" \
        "xdp $(sum '^turnpike_relayed_packets_total.*path="xdp"')" \
        "userspace $(sum '^turnpike_relayed_packets_total.*path="userspace"')" \
        "at $(cut -d. -f1 /proc/uptime)"
}
while read -r words; do
    # Word by word; and not from this loop's input.
    leg $words </dev/null
done </legs
finish ok

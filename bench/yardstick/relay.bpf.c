/*
 * The yardstick: the cheapest honest TURN relay of IPv4 that C can write, with one hash look-up.
 * Turnpike's cost a packet is held against it, frame for frame, by `relay-bench xdp`.
 *
 * It relays ChannelData to peers and peers' datagrams to clients (RFC 8656 section 12) out of the
 * interface they came in by: look-up, deadline, hop limit, accounting for each allocation and CPU,
 * new MAC addresses, IPv4 and UDP headers, both checksums incrementally (RFC 1624).
 *
 * What it leaves out, and Turnpike does: configuration (here the listening port is a literal, every
 * other port is a relayed one), epochs, a table of next hops (here the MAC addresses lie in the
 * route) and so redirects to other interfaces, MTU, a counter for each reason, fragments, whether
 * the lengths of frame, IP, UDP and ChannelData agree, the range of channel numbers, and IPv6.
 * Datagrams from peers with less than four bytes go up. It is no relay to put on a network.
 *
 * relay-bench fills ROUTES; the layouts are those of bench/src/xdp/yardstick.rs.
 */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define LIKELY(x) __builtin_expect(!!(x), 1)

/* Map definitions by BTF: numbers are array lengths, types are what pointers point to. */
#define UINT(name, value) int (*name)[value]
#define TYPE(name, type) type *name

static void *(*const map_lookup)(const void *map, const void *key) =
	(void *)BPF_FUNC_map_lookup_elem;
static __u64 (*const coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*const move_head)(struct xdp_md *ctx, int by) = (void *)BPF_FUNC_xdp_adjust_head;

#define BE16(host) ((__u16)__builtin_bswap16(host))
#define LISTEN_PORT BE16(3478)
#define CHANNEL_BYTES 4
#define UDP_BYTES 8

/* What arrives, as its words lie in the packet. */
struct key {
	__u32 src;
	__u32 dst;
	__u32 ports;
	/* Channel number; 0 from a peer. */
	__u32 channel;
};

struct route {
	/* CLOCK_MONOTONIC; relayed strictly before. */
	__u64 deadline_ns;
	__u32 src;
	__u32 dst;
	__u32 ports;
	/* Destination and source MAC address. */
	__u32 macs[3];
	/* What the checksums' sums gain by all that is the same for each packet of the route. */
	__u16 ip_delta;
	__u16 udp_delta;
	/* Channel number to put in front. */
	__u16 channel;
	__u16 reserved;
	/* Index into COUNTS. */
	__u32 count;
	__u32 reserved_too;
};

struct count {
	__u64 packets;
	__u64 bytes;
};

struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 131072);
	TYPE(key, struct key);
	TYPE(value, struct route);
} ROUTES SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, 131072);
	TYPE(key, __u32);
	TYPE(value, struct count);
} COUNTS SEC(".maps");

/* Headers in the units that they are moved in. */
struct headers {
	__u32 macs[3];
	__u16 ether_type;
	/* Version, traffic class, total length; then identification, fragment. */
	__u8 version_ihl;
	__u8 tos;
	__u16 total_len;
	__u32 id_fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 ip_checksum;
	__u32 src;
	__u32 dst;
	__u32 ports;
	__u16 udp_len;
	__u16 udp_checksum;
	__u16 channel;
	__u16 channel_len;
} __attribute__((packed, aligned(2)));

/* Words at even addresses: the processors that XDP runs on load and store them as one. */
typedef __u32 word __attribute__((aligned(4), may_alias));
#define AT(start, field) (*(word *)((start) + __builtin_offsetof(struct headers, field)))

/* Two addends leave one carry at most, three leave two. */
INLINE __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)((sum & 0xffff) + (sum >> 16));
}

INLINE __u32 with_ip_checksum(__u32 ttl_protocol_sum, __u16 delta)
{
	__u32 sum = (~ttl_protocol_sum >> 16) + delta;
	__u16 checksum = (__u16)~((sum & 0xffff) + (sum >> 16));

	/* The hop limit is the lowest byte, and was more than one. */
	return ((ttl_protocol_sum - 1) & 0xffff) | (__u32)checksum << 16;
}

INLINE __u16 new_udp_checksum(__u16 old, __u32 added)
{
	__u16 checksum = (__u16)~fold((__u16)~old + added);

	if (old == 0)
		return 0;
	return checksum ? checksum : 0xffff;
}

/* Removes a channel header (towards the peer), or puts one in front. */
INLINE int relay(struct xdp_md *ctx, char *start, int strip)
{
	struct headers *old = (struct headers *)start;
	__u32 version_len = *(word *)(start + 14);
	__u32 id_fragment = AT(start, id_fragment);
	__u32 ttl_protocol_sum = AT(start, ttl);
	__u16 udp_len = BE16(old->udp_len);
	__u16 udp_checksum = old->udp_checksum;
	struct key key = {
		.src = AT(start, src),
		.dst = AT(start, dst),
		.ports = AT(start, ports),
		.channel = strip ? old->channel : 0,
	};
	__u16 channel_len = strip ? old->channel_len : BE16(udp_len - UDP_BYTES);
	int change = strip ? -CHANNEL_BYTES : CHANNEL_BYTES;
	struct route *route = map_lookup(&ROUTES, &key);
	struct count *count;
	char *end;

	if (!route || coarse_ns() >= route->deadline_ns)
		return XDP_PASS;
	count = map_lookup(&COUNTS, &route->count);
	if (!count || move_head(ctx, -change))
		return XDP_PASS;
	start = (char *)(long)ctx->data;
	end = (char *)(long)ctx->data_end;
	if (start + sizeof(struct headers) - (strip ? CHANNEL_BYTES : 0) > end)
		return XDP_ABORTED;

	((word *)start)[0] = route->macs[0];
	((word *)start)[1] = route->macs[1];
	((word *)start)[2] = route->macs[2];
	((struct headers *)start)->ether_type = BE16(0x0800);
	*(word *)(start + 14) = (version_len & 0xffff)
		| (__u32)BE16(BE16(version_len >> 16) + change) << 16;
	AT(start, id_fragment) = id_fragment;
	AT(start, ttl) = with_ip_checksum(ttl_protocol_sum, route->ip_delta);
	AT(start, src) = route->src;
	AT(start, dst) = route->dst;
	AT(start, ports) = route->ports;
	AT(start, udp_len) = BE16(udp_len + change)
		| (__u32)new_udp_checksum(udp_checksum, (__u32)route->udp_delta
			+ (strip ? (__u16)~channel_len : channel_len)) << 16;
	if (!strip)
		AT(start, channel) = route->channel | (__u32)channel_len << 16;

	count->packets += 1;
	count->bytes += udp_len - UDP_BYTES - (strip ? CHANNEL_BYTES : 0);
	return XDP_TX;
}

SEC("xdp") int yardstick(struct xdp_md *ctx)
{
	char *start = (char *)(long)ctx->data;
	char *end = (char *)(long)ctx->data_end;
	struct headers *headers = (struct headers *)start;

	if (start + sizeof(struct headers) > end)
		return XDP_PASS;
	/* Anything else has other fields at these places; 17 is UDP. */
	if (!LIKELY(headers->ether_type == BE16(0x0800) && headers->version_ihl == 0x45
		    && headers->protocol == 17 && headers->ttl > 1))
		return XDP_PASS;
	if (AT(start, ports) >> 16 == LISTEN_PORT)
		return relay(ctx, start, 1);
	return relay(ctx, start, 0);
}

SEC("license") const char license_[] = "GPL";

/*
 * Looks like Turnpike's object and relays nothing: every packet takes the way of a missing route.
 * Map sizes are those of relay_common::abi.
 */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define MAP(name, kind, keys, values, entries)                                                     \
	struct {                                                                                   \
		int (*type)[kind];                                                                 \
		int (*key_size)[keys];                                                             \
		int (*value_size)[values];                                                         \
		int (*max_entries)[entries];                                                       \
	} name SEC(".maps")

MAP(ROUTES_V4, BPF_MAP_TYPE_HASH, 16, 64, 16);
MAP(ROUTES_V6, BPF_MAP_TYPE_HASH, 40, 64, 16);
MAP(STRAIGHT_V4, BPF_MAP_TYPE_ARRAY, 4, 64, 131072);
MAP(STRAIGHT_V6, BPF_MAP_TYPE_ARRAY, 4, 128, 65536);
MAP(PERMISSIONS_V4, BPF_MAP_TYPE_HASH, 16, 64, 2);
MAP(PERMISSIONS_V6, BPF_MAP_TYPE_HASH, 40, 64, 2);
MAP(NEXT_HOPS, BPF_MAP_TYPE_ARRAY, 4, 36, 2);
MAP(STATIONS, BPF_MAP_TYPE_ARRAY, 4, 12, 1024);
MAP(LINKS, BPF_MAP_TYPE_HASH, 16, 12, 1);
MAP(POLICERS, BPF_MAP_TYPE_ARRAY, 4, 40, 4);
MAP(CONFIG, BPF_MAP_TYPE_ARRAY, 4, 80, 1);
MAP(REASONS, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16, 34);
MAP(ABI, BPF_MAP_TYPE_ARRAY, 4, 4, 4);

SEC("xdp") int turnpike(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

SEC("license") const char license_[] = "GPL";

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
MAP(NEXT_HOPS, BPF_MAP_TYPE_ARRAY, 4, 28, 1);
MAP(CONFIG, BPF_MAP_TYPE_ARRAY, 4, 48, 1);
MAP(REASONS, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16, 22);
MAP(ABI, BPF_MAP_TYPE_ARRAY, 4, 4, 1);

SEC("xdp") int turnpike(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

SEC("license") const char license_[] = "GPL";

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that RVS uses of DPDK, in standard types. What is static inline in DPDK
 * (bursts, mbufs) is called once per burst; what changed its name or layout
 * between DPDK releases stays inside shim.c.
 *
 * An int result is 0, or a negative errno.
 */
#ifndef RVS_SHIM_H
#define RVS_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rvs_mbuf;
struct rvs_mempool;
struct rvs_device;

/* The most frames that one call of a burst function takes. */
#define RVS_BURST 64
/* Bytes in front of the data of a fresh mbuf (RTE_PKTMBUF_HEADROOM). */
#define RVS_HEADROOM 128
/* The longest RSS key and redirection table that rvs_port_configure takes. */
#define RVS_RSS_KEY_MAX 52

/* Bits of rvs_frame.flags. */
#define RVS_FRAME_RSS 1
#define RVS_FRAME_IP_GOOD 2
#define RVS_FRAME_IP_BAD 4
#define RVS_FRAME_VLAN_STRIPPED 8

/* What Rust knows of an mbuf: its first segment, and where the frame lies. */
struct rvs_frame {
	struct rvs_mbuf *mbuf;
	uint8_t *buf;      /* the first segment's whole buffer */
	uint32_t pkt_len;  /* over all segments */
	uint32_t rss_hash; /* valid with RVS_FRAME_RSS */
	uint16_t buf_len;
	uint16_t data_off;
	uint16_t data_len; /* in the first segment */
	uint16_t flags;
};

struct rvs_segment {
	const uint8_t *data;
	uint16_t len;
};

struct rvs_port_info {
	char driver[64];
	uint8_t mac[6];
	uint16_t mtu;
	int numa_node; /* -1: unknown */
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t min_mtu;
	uint16_t max_mtu;
	uint32_t frame_overhead; /* bytes of a frame that the MTU does not count */
	uint16_t reta_size;
	uint8_t hash_key_size;
	bool rss;       /* spreads over queues by some RSS hash */
	bool rss_ports; /* ... by ports too, for TCP and UDP over IPv4 and IPv6 */
	bool ipv4_checksum;
	bool multi_segments; /* sends packets that lie in several mbufs */
};

struct rvs_link {
	uint32_t speed_mbps; /* UINT32_MAX: unknown */
	bool up;
	bool full_duplex;
};

struct rvs_port_stats {
	uint64_t rx_packets, tx_packets, rx_bytes, tx_bytes;
	uint64_t rx_missed, rx_errors, rx_no_mbuf, tx_errors;
};

struct rvs_port_config {
	uint16_t rx_queues;
	uint16_t tx_queues;
	uint16_t mtu;
	bool ipv4_checksum;
	bool multi_segments;
	bool rss;
	const uint8_t *rss_key; /* NULL: the driver's own */
	uint8_t rss_key_len;
};

/* EAL and threads */
typedef void (*rvs_log_fn)(uint32_t level, const char *text, size_t len);
int rvs_log_to(rvs_log_fn log);
int rvs_eal_init(int argc, char **argv);
int rvs_eal_cleanup(void);
const char *rvs_version(void);
const char *rvs_strerror(int error);
/* Runs a function on the EAL thread of an lcore, which must be idle. */
int rvs_lcore_launch(unsigned int lcore, int (*body)(void *), void *argument);
/* Waits until it has returned, and says what. */
int rvs_lcore_wait(unsigned int lcore);
/* Lets dpdk-dumpcap and dpdk-pdump capture; secondary processes must be possible. */
int rvs_pdump_init(void);
uint64_t rvs_tsc(void);
uint64_t rvs_tsc_hz(void);

/* Pools and mbufs */
int rvs_pool_create(const char *name, uint32_t mbufs, uint32_t cache, uint16_t private_size,
		    uint16_t data_room, int numa_node, struct rvs_mempool **pool);
void rvs_pool_free(struct rvs_mempool *pool);
uint32_t rvs_pool_in_use(const struct rvs_mempool *pool);
uint32_t rvs_mbuf_spacing(uint16_t private_size, uint16_t data_room);
bool rvs_alloc(struct rvs_mempool *pool, struct rvs_frame *frames, uint16_t n);
void rvs_free(struct rvs_mbuf *mbuf);
void rvs_free_bulk(const struct rvs_frame *frames, uint16_t n);
struct rvs_mbuf *rvs_next_segment(const struct rvs_mbuf *mbuf, struct rvs_segment *segment);

/* Bursts */
uint16_t rvs_rx_burst(uint16_t port, uint16_t queue, struct rvs_frame *frames, uint16_t n,
		      uint16_t flags_mask);
uint16_t rvs_tx_burst(uint16_t port, uint16_t queue, const struct rvs_frame *frames, uint16_t n);

/* Ports */
int rvs_port_find(const char *device, uint16_t *port);
int rvs_port_info(uint16_t port, struct rvs_port_info *info);
int rvs_port_configure(uint16_t port, const struct rvs_port_config *config);
int rvs_port_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx);
int rvs_port_rx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, struct rvs_mempool *pool);
int rvs_port_tx_queue(uint16_t port, uint16_t queue, uint16_t descriptors);
int rvs_port_set_mtu(uint16_t port, uint16_t mtu);
int rvs_port_set_reta(uint16_t port, const uint16_t *queues, uint16_t len);
int rvs_port_set_allmulticast(uint16_t port);
int rvs_port_set_promiscuous(uint16_t port, bool on);
int rvs_port_start(uint16_t port);
int rvs_port_stop(uint16_t port);
int rvs_port_close(uint16_t port);
int rvs_port_link(uint16_t port, struct rvs_link *link);
int rvs_port_stats(uint16_t port, struct rvs_port_stats *stats);

/* What drivers report of a port beside its link; bits of rvs_port_events. */
#define RVS_EVENT_RESET 1  /* it works no more until it is reset */
#define RVS_EVENT_REMOVE 2 /* its device goes, or is gone */
/* Notes the events of a port from now on, until it is not watched any more. */
int rvs_port_watch(uint16_t port);
void rvs_port_unwatch(uint16_t port);
/* The events since the last call. May be called from any thread. */
uint32_t rvs_port_events(uint16_t port);
/* Has events reported once more. */
void rvs_port_note(uint16_t port, uint32_t events);
/* Raises an event as a driver does. For tests. */
int rvs_port_raise(uint16_t port, uint32_t event);
/* Sets a stopped port back to where it was before it was configured. */
int rvs_port_reset(uint16_t port);
/* Takes a closed port's device off its bus, so that the system can have it. */
int rvs_device_remove(struct rvs_device *device);
/* The device of a port that is not closed. */
struct rvs_device *rvs_port_device(uint16_t port);

/* Bonds. DPDK 23.11 renamed their members. */
#define RVS_MEMBERS_MAX 32
/* Makes a bond without members, which is gone when its device is removed. `spread`:
 * by addresses and ports, in the modes that spread packets over members. */
int rvs_bond_create(const char *name, uint8_t mode, bool spread, uint8_t numa_node, uint16_t *port);
/* Gives a bond that is not started a member that is not, either. */
int rvs_bond_add(uint16_t bond, uint16_t member);
/* Has a bond keep the MAC address of its first member, also without it. */
int rvs_bond_keep_mac(uint16_t bond);
/* The members in use, and the one that sends; at most RVS_MEMBERS_MAX. */
int rvs_bond_active(uint16_t bond, uint16_t *members, uint16_t *count, uint16_t *primary);
/* Whether a member sends and receives by what it and the switch agreed on (LACP). */
int rvs_bond_agreed(uint16_t bond, uint16_t member, bool *agreed);
/* Has a bond look at the link of a member, as when its driver tells of a change. */
void rvs_bond_look(uint16_t member);
/* Takes a member out of a bond. */
int rvs_bond_remove(uint16_t bond, uint16_t member);

#endif

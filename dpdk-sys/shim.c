/* SPDX-License-Identifier: Apache-2.0 */
/* rte_dev_event_callback_register, experimental in name since 18.05. */
#define ALLOW_EXPERIMENTAL_API
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_bond.h>
#include <rte_eth_bond_8023ad.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <rte_memzone.h>
#include <rte_pdump.h>
#include <rte_prefetch.h>
#include <rte_version.h>

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "RVS needs DPDK 22.11 or newer (Debian 12, Ubuntu 24.04 and Debian 13 have it)"
#endif

_Static_assert(RVS_HEADROOM == RTE_PKTMBUF_HEADROOM, "this DPDK was built with another headroom");
_Static_assert(sizeof(struct rvs_frame) == 32, "two frames share a cache line");

/* How many mbuf headers ahead of the one being read are prefetched. */
#define AHEAD 4

static struct rte_mbuf *as_mbuf(const struct rvs_mbuf *mbuf)
{
	return (struct rte_mbuf *)(uintptr_t)mbuf;
}

static struct rte_mempool *as_pool(const struct rvs_mempool *pool)
{
	return (struct rte_mempool *)(uintptr_t)pool;
}

/* DPDK reports a failure as -errno or as -1 with rte_errno. */
static int result(int ret)
{
	if (ret >= 0)
		return 0;
	if (ret == -1 && rte_errno != 0)
		return -rte_errno;
	return ret;
}

/* EAL and threads */

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	rvs_log_fn log = *(rvs_log_fn *)cookie;

	log((uint32_t)rte_log_cur_msg_loglevel(), text, len);
	return (ssize_t)len;
}

int rvs_log_to(rvs_log_fn log)
{
	static rvs_log_fn target;
	cookie_io_functions_t functions = {.write = log_write};
	FILE *stream;

	target = log;
	stream = fopencookie(&target, "w", functions);
	if (stream == NULL)
		return -errno;
	return result(rte_openlog_stream(stream));
}

int rvs_eal_init(int argc, char **argv)
{
	rte_errno = 0;
	return result(rte_eal_init(argc, argv));
}

int rvs_eal_cleanup(void)
{
	return result(rte_eal_cleanup());
}

const char *rvs_version(void)
{
	return rte_version();
}

const char *rvs_strerror(int error)
{
	return rte_strerror(error);
}

int rvs_lcore_launch(unsigned int lcore, int (*body)(void *), void *argument)
{
	/* DPDK does not check, and would write to a descriptor of 0. */
	if (lcore >= RTE_MAX_LCORE || !rte_lcore_is_enabled(lcore) ||
	    lcore == rte_get_main_lcore())
		return -EINVAL;
	/* A negative errno; rte_errno is left alone. */
	return rte_eal_remote_launch(body, argument, lcore);
}

int rvs_lcore_wait(unsigned int lcore)
{
	return rte_eal_wait_lcore(lcore);
}

int rvs_pdump_init(void)
{
	return result(rte_pdump_init());
}

uint64_t rvs_tsc(void)
{
	return rte_rdtsc();
}

uint64_t rvs_tsc_hz(void)
{
	return rte_get_tsc_hz();
}

/* Pools and mbufs */

/*
 * Without huge pages, DPDK by default lets no mbuf cross a 4 KiB page, so that
 * each takes a whole page and all headers fall into the same few sets of the L1
 * cache. Where devices use virtual addresses, as they do without huge pages, the
 * rule has no use.
 */
static bool may_cross_pages(void)
{
	return !rte_eal_has_hugepages() && rte_eal_iova_mode() == RTE_IOVA_VA;
}

/*
 * With mbufs that may cross pages, DPDK's own population would leave the mbufs
 * without an address for devices; one zone of memory has one.
 */
static int populate(struct rte_mempool *pool, const char *name)
{
	const struct rte_memzone *zone;
	char zone_name[RTE_MEMZONE_NAMESIZE];
	size_t size;

	if (!may_cross_pages())
		return rte_mempool_populate_default(pool);

	size = (size_t)pool->size * rte_mempool_calc_obj_size(pool->elt_size, pool->flags, NULL);
	snprintf(zone_name, sizeof(zone_name), "RVS_%s", name);
	zone = rte_memzone_reserve_aligned(zone_name, size, pool->socket_id, 0, RTE_CACHE_LINE_SIZE);
	if (zone == NULL)
		return rte_errno != 0 ? -rte_errno : -ENOMEM;
	return rte_mempool_populate_iova(pool, zone->addr, zone->iova, zone->len, NULL, NULL);
}

int rvs_pool_create(const char *name, uint32_t mbufs, uint32_t cache, uint16_t private_size,
		    uint16_t data_room, int numa_node, struct rvs_mempool **created)
{
	struct rte_pktmbuf_pool_private kind = {
		.mbuf_data_room_size = data_room,
		.mbuf_priv_size = private_size,
	};
	struct rte_mempool *pool;
	int ret;

	pool = rte_mempool_create_empty(name, mbufs, sizeof(struct rte_mbuf) + private_size + data_room,
					cache, sizeof(kind), numa_node,
					may_cross_pages() ? RTE_MEMPOOL_F_NO_IOVA_CONTIG : 0);
	if (pool == NULL)
		return rte_errno != 0 ? -rte_errno : -ENOMEM;
	ret = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
	if (ret == 0) {
		rte_pktmbuf_pool_init(pool, &kind);
		ret = populate(pool, name);
	}
	if (ret < 0 || pool->populated_size < mbufs) {
		rte_mempool_free(pool);
		return ret < 0 ? ret : -ENOMEM;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	*created = (struct rvs_mempool *)pool;
	return 0;
}

void rvs_pool_free(struct rvs_mempool *pool)
{
	rte_mempool_free(as_pool(pool));
}

uint32_t rvs_pool_in_use(const struct rvs_mempool *pool)
{
	return rte_mempool_in_use_count(as_pool(pool));
}

uint32_t rvs_mbuf_spacing(uint16_t private_size, uint16_t data_room)
{
	return rte_mempool_calc_obj_size(sizeof(struct rte_mbuf) + private_size + data_room, 0, NULL);
}

static inline void fill(struct rvs_frame *frame, struct rte_mbuf *mbuf, uint16_t flags_mask)
{
	const uint64_t offload = mbuf->ol_flags;
	const uint64_t ip = offload & RTE_MBUF_F_RX_IP_CKSUM_MASK;
	uint16_t flags = 0;

	if (offload & RTE_MBUF_F_RX_RSS_HASH)
		flags |= RVS_FRAME_RSS;
	if (ip == RTE_MBUF_F_RX_IP_CKSUM_GOOD)
		flags |= RVS_FRAME_IP_GOOD;
	if (ip == RTE_MBUF_F_RX_IP_CKSUM_BAD)
		flags |= RVS_FRAME_IP_BAD;
	if (offload & RTE_MBUF_F_RX_VLAN_STRIPPED)
		flags |= RVS_FRAME_VLAN_STRIPPED;

	frame->mbuf = (struct rvs_mbuf *)mbuf;
	frame->buf = mbuf->buf_addr;
	frame->pkt_len = mbuf->pkt_len;
	frame->rss_hash = mbuf->hash.rss;
	frame->buf_len = mbuf->buf_len;
	frame->data_off = mbuf->data_off;
	frame->data_len = mbuf->data_len;
	frame->flags = flags & flags_mask;
}

bool rvs_alloc(struct rvs_mempool *pool, struct rvs_frame *frames, uint16_t n)
{
	struct rte_mbuf *mbufs[RVS_BURST];
	uint16_t i;

	if (n > RVS_BURST || rte_pktmbuf_alloc_bulk(as_pool(pool), mbufs, n) != 0)
		return false;
	for (i = 0; i < n; i++)
		fill(&frames[i], mbufs[i], 0);
	return true;
}

void rvs_free(struct rvs_mbuf *mbuf)
{
	rte_pktmbuf_free(as_mbuf(mbuf));
}

void rvs_free_bulk(const struct rvs_frame *frames, uint16_t n)
{
	struct rte_mbuf *mbufs[RVS_BURST];
	uint16_t i;

	n = RTE_MIN(n, (uint16_t)RVS_BURST);
	for (i = 0; i < n; i++)
		mbufs[i] = as_mbuf(frames[i].mbuf);
	rte_pktmbuf_free_bulk(mbufs, n);
}

struct rvs_mbuf *rvs_next_segment(const struct rvs_mbuf *mbuf, struct rvs_segment *segment)
{
	struct rte_mbuf *next = as_mbuf(mbuf)->next;

	if (next == NULL)
		return NULL;
	segment->data = rte_pktmbuf_mtod(next, const uint8_t *);
	segment->len = next->data_len;
	return (struct rvs_mbuf *)next;
}

/* Bursts */

uint16_t rvs_rx_burst(uint16_t port, uint16_t queue, struct rvs_frame *frames, uint16_t n,
		      uint16_t flags_mask)
{
	struct rte_mbuf *mbufs[RVS_BURST];
	uint16_t received, i;

	received = rte_eth_rx_burst(port, queue, mbufs, RTE_MIN(n, (uint16_t)RVS_BURST));
	for (i = 0; i < RTE_MIN(received, (uint16_t)AHEAD); i++)
		rte_prefetch0(mbufs[i]);
	for (i = 0; i < received; i++) {
		if (i + AHEAD < received)
			rte_prefetch0(mbufs[i + AHEAD]);
		rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], void *));
		fill(&frames[i], mbufs[i], flags_mask);
	}
	return received;
}

uint16_t rvs_tx_burst(uint16_t port, uint16_t queue, const struct rvs_frame *frames, uint16_t n)
{
	struct rte_mbuf *mbufs[RVS_BURST];
	uint16_t i;

	n = RTE_MIN(n, (uint16_t)RVS_BURST);
	for (i = 0; i < n; i++) {
		struct rte_mbuf *mbuf = as_mbuf(frames[i].mbuf);

		mbuf->data_off = frames[i].data_off;
		mbuf->data_len = frames[i].data_len;
		mbuf->pkt_len = frames[i].pkt_len;
		mbufs[i] = mbuf;
	}
	return rte_eth_tx_burst(port, queue, mbufs, n);
}

/* Ports */

/* Hashed over both addresses and both ports. */
#define HASH_PORTS \
	(RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP | \
	 RTE_ETH_RSS_NONFRAG_IPV6_TCP | RTE_ETH_RSS_NONFRAG_IPV6_UDP)
/* Hashed over both addresses: fragments and other protocols. */
#define HASH_ADDRESSES \
	(RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_FRAG_IPV4 | RTE_ETH_RSS_NONFRAG_IPV4_OTHER | \
	 RTE_ETH_RSS_IPV6 | RTE_ETH_RSS_FRAG_IPV6 | RTE_ETH_RSS_NONFRAG_IPV6_OTHER)

int rvs_port_find(const char *device, uint16_t *port)
{
	return result(rte_eth_dev_get_port_by_name(device, port));
}

/* More than header, CRC and all tags of a frame, in bytes. */
#define MOST_OVERHEAD 64

/* As ethdev itself counts: Ethernet header and CRC, unless the driver says more.
 * vmxnet3 and, with an MTU of the host's, virtio say thousands: their longest
 * frame has nothing to do with their largest MTU. */
static uint32_t frame_overhead(const struct rte_eth_dev_info *dev)
{
	if (dev->max_mtu != UINT16_MAX && dev->max_rx_pktlen > dev->max_mtu &&
	    dev->max_rx_pktlen - dev->max_mtu <= MOST_OVERHEAD)
		return dev->max_rx_pktlen - dev->max_mtu;
	return RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN;
}

int rvs_port_info(uint16_t port, struct rvs_port_info *info)
{
	struct rte_eth_dev_info dev;
	struct rte_ether_addr mac;
	int ret = rte_eth_dev_info_get(port, &dev);

	if (ret == 0)
		ret = rte_eth_macaddr_get(port, &mac);
	if (ret == 0)
		ret = rte_eth_dev_get_mtu(port, &info->mtu);
	if (ret != 0)
		return result(ret);

	snprintf(info->driver, sizeof(info->driver), "%s", dev.driver_name);
	memcpy(info->mac, mac.addr_bytes, sizeof(info->mac));
	info->numa_node = rte_eth_dev_socket_id(port);
	info->max_rx_queues = dev.max_rx_queues;
	info->max_tx_queues = dev.max_tx_queues;
	info->min_mtu = dev.min_mtu;
	info->max_mtu = dev.max_mtu;
	info->frame_overhead = frame_overhead(&dev);
	info->reta_size = dev.reta_size;
	info->hash_key_size = dev.hash_key_size;
	info->rss = dev.flow_type_rss_offloads != 0;
	info->rss_ports = (dev.flow_type_rss_offloads & HASH_PORTS) == HASH_PORTS;
	info->ipv4_checksum = (dev.rx_offload_capa & RTE_ETH_RX_OFFLOAD_IPV4_CKSUM) != 0;
	info->multi_segments = (dev.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) != 0;
	return 0;
}

int rvs_port_configure(uint16_t port, const struct rvs_port_config *config)
{
	struct rte_eth_conf conf;
	struct rte_eth_dev_info dev;
	int ret = rte_eth_dev_info_get(port, &dev);

	if (ret != 0)
		return result(ret);
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = config->mtu;
	if (config->ipv4_checksum)
		conf.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
	if (config->multi_segments)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (config->rss) {
		/* Zeroed above: from 23.11 on, algorithm 0 is the driver's default, Toeplitz. */
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rxmode.offloads |= dev.rx_offload_capa & RTE_ETH_RX_OFFLOAD_RSS_HASH;
		conf.rx_adv_conf.rss_conf.rss_key = (uint8_t *)(uintptr_t)config->rss_key;
		conf.rx_adv_conf.rss_conf.rss_key_len = config->rss_key_len;
		conf.rx_adv_conf.rss_conf.rss_hf =
			(HASH_PORTS | HASH_ADDRESSES) & dev.flow_type_rss_offloads;
	}
	return result(rte_eth_dev_configure(port, config->rx_queues, config->tx_queues, &conf));
}

int rvs_port_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx)
{
	return result(rte_eth_dev_adjust_nb_rx_tx_desc(port, rx, tx));
}

int rvs_port_rx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, struct rvs_mempool *pool)
{
	return result(rte_eth_rx_queue_setup(port, queue, descriptors,
					     (unsigned int)rte_eth_dev_socket_id(port), NULL,
					     as_pool(pool)));
}

int rvs_port_tx_queue(uint16_t port, uint16_t queue, uint16_t descriptors)
{
	return result(rte_eth_tx_queue_setup(port, queue, descriptors,
					     (unsigned int)rte_eth_dev_socket_id(port), NULL));
}

int rvs_port_set_mtu(uint16_t port, uint16_t mtu)
{
	return result(rte_eth_dev_set_mtu(port, mtu));
}

int rvs_port_set_reta(uint16_t port, const uint16_t *queues, uint16_t len)
{
	struct rte_eth_rss_reta_entry64 reta[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];
	uint16_t i;

	if (len > RTE_ETH_RSS_RETA_SIZE_512)
		return -ENOTSUP;
	memset(reta, 0, sizeof(reta));
	for (i = 0; i < len; i++) {
		struct rte_eth_rss_reta_entry64 *group = &reta[i / RTE_ETH_RETA_GROUP_SIZE];

		group->mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
		group->reta[i % RTE_ETH_RETA_GROUP_SIZE] = queues[i];
	}
	return result(rte_eth_dev_rss_reta_update(port, reta, len));
}

int rvs_port_set_allmulticast(uint16_t port)
{
	return result(rte_eth_allmulticast_enable(port));
}

int rvs_port_set_promiscuous(uint16_t port, bool on)
{
	return result(on ? rte_eth_promiscuous_enable(port) : rte_eth_promiscuous_disable(port));
}

int rvs_port_start(uint16_t port)
{
	return result(rte_eth_dev_start(port));
}

int rvs_port_stop(uint16_t port)
{
	return result(rte_eth_dev_stop(port));
}

int rvs_port_close(uint16_t port)
{
	return result(rte_eth_dev_close(port));
}

int rvs_port_link(uint16_t port, struct rvs_link *link)
{
	struct rte_eth_link status;
	int ret = rte_eth_link_get_nowait(port, &status);

	if (ret != 0)
		return result(ret);
	link->speed_mbps = status.link_speed;
	link->up = status.link_status == RTE_ETH_LINK_UP;
	link->full_duplex = status.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return 0;
}

int rvs_port_stats(uint16_t port, struct rvs_port_stats *out)
{
	struct rte_eth_stats stats;
	int ret = rte_eth_stats_get(port, &stats);

	if (ret != 0)
		return result(ret);
	out->rx_packets = stats.ipackets;
	out->tx_packets = stats.opackets;
	out->rx_bytes = stats.ibytes;
	out->tx_bytes = stats.obytes;
	out->rx_missed = stats.imissed;
	out->rx_errors = stats.ierrors;
	out->rx_no_mbuf = stats.rx_nombuf;
	out->tx_errors = stats.oerrors;
	return 0;
}

/* Events */

static uint32_t port_events[RTE_MAX_ETHPORTS];

static void note(uint16_t port, uint32_t event)
{
	if (port < RTE_MAX_ETHPORTS)
		__atomic_fetch_or(&port_events[port], event, __ATOMIC_RELEASE);
}

/* On EAL's thread of interrupts, which must not touch the port itself. */
static int on_port_event(uint16_t port, enum rte_eth_event_type event, void *arg, void *ret)
{
	(void)arg;
	(void)ret;
	note(port, event == RTE_ETH_EVENT_INTR_RESET ? RVS_EVENT_RESET : RVS_EVENT_REMOVE);
	return 0;
}

/* vfio-pci asks for a device back in this way, and waits until it has it. */
static void on_device_event(const char *name, enum rte_dev_event_type event, void *port)
{
	(void)name;
	if (event == RTE_DEV_EVENT_REMOVE)
		note((uint16_t)(uintptr_t)port, RVS_EVENT_REMOVE);
}

static const char *device_name(uint16_t port)
{
	struct rte_eth_dev_info dev;

	if (rte_eth_dev_info_get(port, &dev) != 0 || dev.device == NULL)
		return NULL;
	return rte_dev_name(dev.device);
}

int rvs_port_watch(uint16_t port)
{
	const char *name = device_name(port);
	int ret;

	if (port >= RTE_MAX_ETHPORTS || name == NULL)
		return -ENODEV;
	__atomic_store_n(&port_events[port], 0, __ATOMIC_RELEASE);
	ret = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RESET, on_port_event, NULL);
	if (ret == 0)
		ret = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RMV, on_port_event, NULL);
	if (ret == 0)
		ret = rte_dev_event_callback_register(name, on_device_event, (void *)(uintptr_t)port);
	return result(ret);
}

void rvs_port_unwatch(uint16_t port)
{
	const char *name = device_name(port);

	rte_eth_dev_callback_unregister(port, RTE_ETH_EVENT_INTR_RESET, on_port_event, NULL);
	rte_eth_dev_callback_unregister(port, RTE_ETH_EVENT_INTR_RMV, on_port_event, NULL);
	if (name != NULL)
		rte_dev_event_callback_unregister(name, on_device_event, (void *)(uintptr_t)port);
}

uint32_t rvs_port_events(uint16_t port)
{
	if (port >= RTE_MAX_ETHPORTS)
		return 0;
	/* The common case writes nothing. */
	if (__atomic_load_n(&port_events[port], __ATOMIC_RELAXED) == 0)
		return 0;
	return __atomic_exchange_n(&port_events[port], 0, __ATOMIC_ACQUIRE);
}

void rvs_port_note(uint16_t port, uint32_t events)
{
	note(port, events);
}

/* What a driver calls. Not in the headers, and not to be linked with by others. */
static int raise_event(uint16_t port, enum rte_eth_event_type event)
{
	struct rte_eth_dev *(*device)(const char *) =
		dlsym(RTLD_DEFAULT, "rte_eth_dev_get_by_name");
	int (*process)(struct rte_eth_dev *, enum rte_eth_event_type, void *) =
		dlsym(RTLD_DEFAULT, "rte_eth_dev_callback_process");
	char name[RTE_ETH_NAME_MAX_LEN];

	if (device == NULL || process == NULL || rte_eth_dev_get_name_by_port(port, name) != 0)
		return -ENOTSUP;
	return process(device(name), event, NULL);
}

int rvs_port_raise(uint16_t port, uint32_t event)
{
	const char *name = device_name(port);

	if (event != RVS_EVENT_REMOVE)
		return raise_event(port, RTE_ETH_EVENT_INTR_RESET);
	if (name != NULL)
		rte_dev_event_callback_process(name, RTE_DEV_EVENT_REMOVE);
	return 0;
}

int rvs_port_reset(uint16_t port)
{
	return result(rte_eth_dev_reset(port));
}

struct rvs_device *rvs_port_device(uint16_t port)
{
	struct rte_eth_dev_info dev;

	if (rte_eth_dev_info_get(port, &dev) != 0)
		return NULL;
	return (struct rvs_device *)(uintptr_t)dev.device;
}

int rvs_device_remove(struct rvs_device *device)
{
	return result(rte_dev_remove((struct rte_device *)device));
}

/* Bonds */

#if RTE_VERSION >= RTE_VERSION_NUM(23, 11, 0, 0)
#define BOND_MEMBER "member"
#define bond_8023ad_info rte_eth_bond_8023ad_member_info
#else
#define BOND_MEMBER "slave"
#define bond_8023ad_info rte_eth_bond_8023ad_slave_info
#endif

/*
 * A function of net_bonding. Linking with a driver would have it in this process
 * before EAL loads its plugins, in another order than in DPDK's tools, which then
 * could not attach.
 */
static void *bond_function(const char *name)
{
	char library[64];
	void *driver, *function;

	/* Each November's release begins a new ABI, which is numbered by the year after. */
	snprintf(library, sizeof(library), "librte_net_bond.so.%u",
		 rte_version_year() + (rte_version_month() >= 11 ? 1 : 0));
	driver = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
	if (driver == NULL)
		return NULL;
	function = dlsym(driver, name);
	/* EAL keeps it loaded. */
	dlclose(driver);
	return function;
}

/* net_bonding says -1 of whatever it has logged, without rte_errno. */
static int bond_result(int ret)
{
	return ret == -1 ? -EIO : result(ret);
}

/*
 * Not by arguments of EAL: with them net_bonding takes in its members at each
 * configuration once more, which fails for good when one of them is gone.
 */
int rvs_bond_create(const char *name, uint8_t mode, bool spread, uint8_t numa_node, uint16_t *port)
{
	int (*create)(const char *, uint8_t, uint8_t) = bond_function("rte_eth_bond_create");
	int (*policy)(uint16_t, uint8_t) = bond_function("rte_eth_bond_xmit_policy_set");
	int ret;

	if (create == NULL || policy == NULL)
		return -ENOTSUP;
	ret = create(name, mode, numa_node);
	if (ret < 0)
		return bond_result(ret);
	*port = (uint16_t)ret;
	return spread ? bond_result(policy(*port, BALANCE_XMIT_POLICY_LAYER34)) : 0;
}

int rvs_bond_add(uint16_t bond, uint16_t member)
{
	int (*add)(uint16_t, uint16_t) = bond_function("rte_eth_bond_" BOND_MEMBER "_add");

	return add == NULL ? -ENOTSUP : bond_result(add(bond, member));
}

int rvs_bond_keep_mac(uint16_t bond)
{
	int (*set)(uint16_t, struct rte_ether_addr *) =
		bond_function("rte_eth_bond_mac_address_set");
	struct rte_ether_addr mac;
	int ret = rte_eth_macaddr_get(bond, &mac);

	if (ret != 0)
		return result(ret);
	return set == NULL ? -ENOTSUP : bond_result(set(bond, &mac));
}

int rvs_bond_active(uint16_t bond, uint16_t *members, uint16_t *count, uint16_t *primary)
{
	int (*get)(uint16_t, uint16_t *, uint16_t) =
		bond_function("rte_eth_bond_active_" BOND_MEMBER "s_get");
	int (*first)(uint16_t) = bond_function("rte_eth_bond_primary_get");
	int ret;

	if (get == NULL || first == NULL)
		return -ENOTSUP;
	ret = get(bond, members, RVS_MEMBERS_MAX);
	if (ret < 0)
		return result(ret);
	*count = (uint16_t)ret;
	/* -1 without any. */
	ret = first(bond);
	*primary = ret < 0 ? UINT16_MAX : (uint16_t)ret;
	return 0;
}

int rvs_bond_agreed(uint16_t bond, uint16_t member, bool *agreed)
{
	int (*get)(uint16_t, uint16_t, struct bond_8023ad_info *) =
		bond_function("rte_eth_bond_8023ad_" BOND_MEMBER "_info");
	const uint8_t wanted = STATE_COLLECTING | STATE_DISTRIBUTING;
	struct bond_8023ad_info info;
	int ret;

	if (get == NULL)
		return -ENOTSUP;
	ret = get(bond, member, &info);
	if (ret != 0)
		return result(ret);
	*agreed = (info.actor_state & wanted) == wanted;
	return 0;
}

void rvs_bond_look(uint16_t member)
{
	raise_event(member, RTE_ETH_EVENT_INTR_LSC);
}

int rvs_bond_remove(uint16_t bond, uint16_t member)
{
	int (*out)(uint16_t, uint16_t) = bond_function("rte_eth_bond_" BOND_MEMBER "_remove");

	return out == NULL ? -ENOTSUP : bond_result(out(bond, member));
}

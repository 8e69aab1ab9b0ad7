//! The text of `-h` and `-v`.

/// What `-v` prints: ipvsadm's layout, with the version of RVS.
pub(super) const VERSION: &str = concat!(
    "rvsadm v",
    env!("CARGO_PKG_VERSION"),
    " (compatible with ipvsadm v1.31 and IPVS v1.2.1)\n"
);

/// What `-h` prints after the version. `{program}` is replaced.
pub(super) const HELP: &str = "\
Usage: {program} COMMAND [OPTION]...     talks to rvsd, the director

Commands (the first word; none at all lists the services):
  -A, --add-service SERVICE         make a virtual service
  -E, --edit-service SERVICE        change scheduler, persistence, flags
  -D, --delete-service SERVICE      remove it and its servers
  -C, --clear                       remove all services
  -a, --add-server SERVICE SERVER   add a real server to a service
  -e, --edit-server SERVICE SERVER  change method, weight, thresholds
  -d, --delete-server SERVICE SERVER
                                    take a real server out of a service
  -L, -l, --list [SERVICE]          list services, connections, timeouts
  -Z, --zero [SERVICE]              set counters to zero
  -S, --save                        print the commands that make it all anew
  -R, --restore                     read such commands from standard input
      --set TCP TCPFIN UDP          timeouts in seconds; 0 keeps a value
      --start-daemon master|backup  connection synchronisation
      --stop-daemon master|backup
  -h, --help                        this text
  -v, --version                     version

SERVICE is one of
  -t, --tcp-service HOST[:PORT]
  -u, --udp-service HOST[:PORT]
      --sctp-service HOST[:PORT]
  -f, --fwmark-service MARK [-6, --ipv6]
IPv6 addresses with a port stand in brackets: [fd00::1]:80.

Options of -A and -E:
  -s, --scheduler NAME              default wlc
  -p, --persistent [SECONDS]        keep a client on its server; default 360
  -M, --netmask MASK                clients that count as one: 255.255.255.0,
                                    for IPv6 a prefix length
      --pe ENGINE                   persistence engine: sip
  -o, --ops                         one-packet scheduling (UDP)
  -b, --sched-flags FLAG[,FLAG]     sh-fallback, sh-port, mh-fallback, mh-port
      --local-address ADDR[,ADDR]   addresses that FULLNAT connections come
                                    from (RVS)
      --client-address HOW          how FULLNAT servers learn the client's:
                                    none, toa or proxy (RVS)
      --mss BYTES                   most that a connection's TCP MSS option may
                                    say; 0 leaves it alone (RVS)
      --take-up                     packets of TCP connections that another
                                    director had go to the server that mh
                                    finds (RVS)

Options of -a and -e:
  -r, --real-server HOST[:PORT]     SERVER; also of -d
  -g, --gatewaying                  direct routing (DR), the default
  -m, --masquerading                NAT
  -i, --ipip                        tunnel
  -b, --fullnat                     FULLNAT: both addresses are rewritten (RVS)
  -w, --weight N                    share of new connections; 0 takes none
  -x, --u-threshold N               overloaded from N connections on
  -y, --l-threshold N               not overloaded any more below N
      --tun-type ipip|gue|gre       with -i; default ipip
      --tun-port PORT               the server's UDP port, for gue
      --tun-nocsum, --tun-csum, --tun-remcsum
                                    checksums of the tunnel

Options of -L:
  -n, --numeric                     no names of hosts and ports; also of -S
  -c, --connection                  connections
      --timeout                     timeouts
      --daemon                      synchronisation daemons
      --stats                       counters
      --rate                        counters per second
  -X, --exact                       all digits
      --thresholds                  thresholds of servers
      --persistent-conn             persistence templates of servers
      --tun-info                    encapsulation of servers
      --nosort                      in the order of creation, newest first
      --sort                        accepted and ignored

Options of --start-daemon:
      --syncid ID  --sync-maxlen BYTES  --mcast-interface NAME
      --mcast-group ADDRESS  --mcast-port PORT  --mcast-ttl TTL

rvsadm show and top tell about RVS itself, trace, capture and explain about
packets, doctor about what is wrong; set changes a setting, reload reads the
configuration file again, save and restore keep all services, drain and undrain
take a server out; see rvsadm help. The variable RVS_SOCKET names the socket of
rvsd when it is not /run/rvs/rvsd.sock.
";

"""Network policy as iptables rules and ipsets: what each item of policy comes to in the `filter` table of each family.

    INPUT ---> KUBE-ROUTER-INPUT    pods to this node; VIPs and node ports go back to INPUT, IPVS rewrites them, OUTPUT judges
    FORWARD -> KUBE-ROUTER-FORWARD  everything routed or bridged
    OUTPUT --> KUBE-ROUTER-OUTPUT   this node (back to OUTPUT: it may always talk to its pods) and what IPVS sends on

        source in KUBE-POD-EGRESS                         else, destination in KUBE-POD-INGRESS
                |                                                         |
                v                                                         v
        KUBE-NWPLCY-EGRESS                        +-------------> KUBE-NWPLCY-INGRESS   destination not isolated: ACCEPT
          KUBE-NWPLCY-COMMON: known flows, ICMP   |                 KUBE-NWPLCY-COMMON
          class of the source, by its set         |                 class of the destination, by its set
                |                                 |                       |
                v                                 |                       v
        KUBE-POD-FW-<class>                       |               KUBE-POD-FW-<class>
          KUBE-NWPLCY-<policy>  allowed: goto ----+                 KUBE-NWPLCY-<policy>  allowed: ACCEPT
          ...                                                       ...
          NFLOG, REJECT                                             NFLOG, REJECT

Both ends of a connection are judged, by their own policies in their own direction, on the node or nodes where they are. No
mark is read or written. A packet of which neither end is isolated costs two set look-ups.

Rules know sets, sets know addresses: a pod that comes or goes in a known class changes members, never a rule. Per policy that
selects a local pod, chains; per thing that rules ask for (pods by selector, blocks with exceptions, a port name), one set,
whoever asks.
"""

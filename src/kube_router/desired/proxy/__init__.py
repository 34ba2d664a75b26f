"""Rules of the service proxy: what one Service comes to on this node, and what the node itself needs for it.

client --> PREROUTING --> VIP is local (dummy link) or the node's own address
       --> INPUT: set of VIPs -> KUBE-ROUTER-SERVICES (accept address and port of a Service, reject the rest of a VIP)
       --> IPVS picks a backend --> POSTROUTING: IPVS traffic -> KUBE-ROUTER-MASQ (source, where the reply needs it) --> backend
"""

"""Other people's BGP in the lab: FRR and BIRD as external routers, behind one small interface (`lab.routers.model`)."""

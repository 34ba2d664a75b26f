# Targets for people; each says what it does, shows its progress and ends with a plain verdict.
# Setting up the machine is part of them: on a fresh Debian 12 as root they install what they need, run again they are quick.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python

# K=EXPR for test, CASE=NAME for bench, STEP=N and KEEP=1 for demo.
K ?=
CASE ?=
STEP ?=
KEEP ?=

# What the walkthrough needs of a kernel, as its acceptance test says; without it, it plays in the lab kernel.
DEMO_NEEDS := root,veth,bridge,dummy,ip_vs,ipset,iptables_nft,br_netfilter

.PHONY: help setup check test demo bench proto lock image clean

help: ## Say what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 14

setup: ## Install everything: Debian packages, .venv, the BGP speakers, the lab kernel
	@$(PYTHON) lab/setup.py

check: ## Style, types, import contracts, fast tests; no root, under a minute
	@$(PYTHON) lab/setup.py check
	@$(RUN) -m lab.checks

test: setup ## All of check, then the tests on real kernels (root); K=EXPR runs the matching tests only
	@$(RUN) -m lab.checks test $(if $(K),-k '$(K)')

demo: setup ## The walkthrough on three nodes (root); STEP=N that step alone, after what it needs, KEEP=1 leaves a shell in node1
	@$(RUN) -m lab.kernel --needs $(DEMO_NEEDS) $(if $(KEEP),--interactive) -- $(RUN) -m lab.demo $(if $(STEP),--step $(STEP)) $(if $(KEEP),--keep)

bench: setup ## Measure against the C tools; CASE=start|routes|proxy|netpol
	@$(RUN) -m bench $(CASE)

proto: ## Make the protobuf code of the APIs of BGP speaker and container runtime anew
	@$(RUN) -m grpc_tools.protoc --proto_path=src/kube_router/codec/gobgp/proto --python_out=src/kube_router/codec/gobgp/generated \
	  src/kube_router/codec/gobgp/proto/gobgp_v3.proto src/kube_router/codec/gobgp/proto/gobgp_v4.proto
	@$(RUN) -m grpc_tools.protoc --proto_path=src/kube_router/codec/cri/proto --python_out=src/kube_router/codec/cri/generated \
	  src/kube_router/codec/cri/proto/cri_v1.proto
	@echo "make proto: done; tests/unit/test_codec_gobgp_generated.py and test_codec_cri.py compare"

lock: ## Resolve the Python dependencies anew and write requirements.lock
	@$(PYTHON) lab/setup.py lock

image: ## Build the container image with buildah or docker
	@$$(command -v buildah >/dev/null && echo "buildah bud" || echo "docker build") -t kube-router .

clean: ## Remove what the targets made (not the Debian packages)
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	@echo "make clean: done"

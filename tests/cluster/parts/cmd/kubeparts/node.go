package main

import (
	"context"

	"k8s.io/component-base/cli"
	proxyapp "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubeletapp "k8s.io/kubernetes/cmd/kubelet/app"
)

func kubelet() int { return cli.Run(kubeletapp.NewKubeletCommand(context.Background())) }

func kubeProxy() int { return cli.Run(proxyapp.NewProxyCommand()) }

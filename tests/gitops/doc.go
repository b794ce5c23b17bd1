// Package gitops holds the tests of what GitOps tools make of this project: kstatus (Flux) and Argo CD's Lua of the
// objects in situations/, and kubeconform of every manifest that is rendered or shipped.
package gitops

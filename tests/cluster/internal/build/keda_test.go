package build

import "testing"

func TestManifestsOfKEDARunTheImageThatTheNodeHas(t *testing.T) {
	const theirs = "- image: ghcr.io/kedacore/keda:main\n  imagePullPolicy: Always\n- image: ghcr.io/kedacore/keda-metrics-apiserver:main\n"
	const ours = "- image: here:dev\n  imagePullPolicy: IfNotPresent\n- image: here:dev\n"
	if got, err := onImage(theirs, "here:dev", 2); err != nil || got != ours {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := onImage(theirs, "here:dev", 3); err == nil {
		t.Errorf("a container that is not there was taken: %q", got)
	}
}

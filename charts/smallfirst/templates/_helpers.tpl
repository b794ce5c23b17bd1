{{- define "smallfirst.name" -}}
{{- if contains "smallfirst" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-smallfirst{{ end -}}
{{- end }}

{{- define "smallfirst.selector" -}}
app.kubernetes.io/name: smallfirst
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* managed-by is Helm, never smallfirst: what says smallfirst is watched by the operator. */}}
{{- define "smallfirst.labels" -}}
{{ include "smallfirst.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: smallfirst
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "smallfirst.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

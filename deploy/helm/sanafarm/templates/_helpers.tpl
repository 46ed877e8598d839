{{/* Names are cut for what Kubernetes adds to them. */}}
{{- define "sanafarm.name" -}}
{{- if contains "sanafarm" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-sanafarm" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sanafarm.labels" -}}
app.kubernetes.io/name: sanafarm
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "sanafarm.selector" -}}
app.kubernetes.io/name: sanafarm
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of a repository. */}}
{{- define "sanafarm.image" -}}
{{ .root.Values.image.registry }}{{ .repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "sanafarm.coordinator" -}}
{{ include "sanafarm.name" . }}-coordinator
{{- end }}

{{/* Host name of the Service, as the certificate has it. */}}
{{- define "sanafarm.host" -}}
{{ include "sanafarm.coordinator" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "sanafarm.url" -}}
{{ ternary "http" "https" .Values.insecure }}://{{ include "sanafarm.host" . }}:7070
{{- end }}

{{/* A coordinator with a certificate has HTTPS on both ports. */}}
{{- define "sanafarm.scheme" -}}
{{ ternary "HTTP" "HTTPS" .Values.insecure }}
{{- end }}

{{- define "sanafarm.caSecret" -}}
{{ .Values.tls.caSecret | default .Values.tls.secret }}
{{- end }}

{{- define "sanafarm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sanafarm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What all processes log and trace. */}}
{{- define "sanafarm.telemetryEnv" -}}
- {name: SANAFARM_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
{{- with .Values.log.level }}
- {name: SANAFARM_LOG, value: {{ . | quote }}}
{{- end }}
{{- with .Values.trace.endpoint }}
- {name: SANAFARM_TRACE_ENDPOINT, value: {{ . | quote }}}
- {name: SANAFARM_TRACE_RATIO, value: {{ $.Values.trace.ratio | quote }}}
{{- end }}
{{- end }}

{{/* A pool with its defaults, as YAML. Call with dict "root" and "pool". */}}
{{- define "sanafarm.pool" -}}
{{- mustMergeOverwrite (deepCopy .root.Values.poolDefaults) (deepCopy .pool) | toYaml }}
{{- end }}

{{/* What values.schema.json cannot say. */}}
{{- define "sanafarm.check" -}}
{{- $names := dict }}
{{- range .Values.pools }}
{{- if hasKey $names .name }}{{ fail (printf "two pools are named %s" .name) }}{{ end }}
{{- $_ := set $names .name true }}
{{- $pool := include "sanafarm.pool" (dict "root" $ "pool" .) | fromYaml }}
{{- if and $pool.autoscale.enabled (not $.Values.keda.enabled) }}{{ fail (printf "pool %s has autoscale.enabled: set keda.enabled too" .name) }}{{ end }}
{{- if gt (int $pool.autoscale.min) (int $pool.autoscale.max) }}{{ fail (printf "pool %s: autoscale.min is above autoscale.max" .name) }}{{ end }}
{{- end }}
{{- if and .Values.keda.enabled (not .Values.insecure) (not .Values.tls.clientCaSecret) }}{{ fail "keda.enabled: set tls.clientCaSecret too, for KEDA shows a client certificate" }}{{ end }}
{{- if and .Values.externalSecrets.enabled (not .Values.externalSecrets.store.name) }}{{ fail "externalSecrets.enabled: name externalSecrets.store.name" }}{{ end }}
{{- end }}

{{/* Egress to the cluster's DNS. */}}
{{- define "sanafarm.dns" -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

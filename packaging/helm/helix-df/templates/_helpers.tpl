{{- /* Names and labels are those of `helix-df export --to kubernetes`, with Helm's own labels beside them. */}}
{{- define "helix-df.name" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride }}
{{- else if .Values.nameOverride }}{{ printf "%s-%s" .Release.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "helix-df.selector" -}}
app.kubernetes.io/name: helix-df
app.kubernetes.io/instance: {{ include "helix-df.name" . }}
{{- end }}

{{- define "helix-df.labels" -}}
{{ include "helix-df.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "helix-df.configuration" -}}
{{ .Values.existingConfigMap | default (printf "%s-job" (include "helix-df.name" .)) }}
{{- end }}

{{- /* The name of a part's StatefulSet, 52 letters at most, since its pods bear it in a label with a hash behind it. */}}
{{- define "helix-df.set" -}}
{{- $whole := printf "%s-%s" (include "helix-df.name" .root) .part }}
{{- if le (len $whole) 52 }}{{ $whole }}{{ else }}{{ printf "%s-%s" (trunc 43 $whole | trimSuffix "-") (sha256sum $whole | trunc 8) }}{{ end }}
{{- end }}

{{- define "helix-df.container" -}}
name: helix-df
image: {{ .root.Values.image | default (printf "helix-df:%s" .root.Chart.AppVersion) | quote }}
{{- with .root.Values.imagePullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
command:
  - sh
  - -c
  - {{ .run | quote }}
env:
{{- $env := merge (deepCopy .root.Values.env) (dict "HELIX_DF_STATE" "/var/lib/helix-df" "HELIX_DF_CACHE" "/var/cache/helix-df") }}
{{- range $name, $value := $env }}
  - name: {{ $name }}
    value: {{ $value | quote }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: job, mountPath: /etc/helix-df/job, readOnly: true}
  - {name: keys, mountPath: /etc/helix-df/keys, readOnly: true}
  - {name: state, mountPath: /var/lib/helix-df}
  - {name: cache, mountPath: /var/cache/helix-df}
  - {name: run, mountPath: /run/helix-df}
{{- end }}

{{- define "helix-df.pod" -}}
automountServiceAccountToken: false
terminationGracePeriodSeconds: 30
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "helix-df.volumes" -}}
- name: job
  configMap: {name: {{ include "helix-df.configuration" . }}}
- name: keys
  secret: {secretName: {{ .Values.keysSecret | default (printf "%s-keys" (include "helix-df.name" .)) }}, defaultMode: 288}
- name: run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: cache
  emptyDir: {}
{{- end }}

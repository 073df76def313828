{{- define "oatmill.name" -}}
{{- if contains "oatmill" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-oatmill{{ end -}}
{{- end -}}

{{- define "oatmill.selector" -}}
app.kubernetes.io/name: oatmill
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "oatmill.labels" -}}
{{ include "oatmill.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Labels of a role's workload and of its pods. The role's own come first: they cannot replace those that select. */}}
{{- define "oatmill.roleLabels" -}}
{{- with (index .root.Values .role).labels -}}
{{ toYaml . }}
{{ end -}}
{{ include "oatmill.labels" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "oatmill.roleSelector" -}}
{{ include "oatmill.selector" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{/* A Job cannot be changed: its name has a digest of the values that its pods depend on. */}}
{{- define "oatmill.learnerJob" -}}
{{- $values := pick .Values "learner" "run" "image" "keys" "insecure" "podSecurity" "serviceAccount" -}}
{{- $evaluator := ternary " evaluator" "" .Values.evaluator.enabled -}}
{{ include "oatmill.name" . }}-learner-{{ printf "%s %s%s" .Chart.Version (toYaml $values) $evaluator | sha256sum | trunc 6 }}
{{- end -}}

{{- define "oatmill.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "oatmill.name" .) "" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "oatmill.image" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* What the schema cannot say: values that contradict each other. */}}
{{- define "oatmill.check" -}}
{{- $learner := .Values.learner -}}
{{- if gt (len (include "oatmill.name" .)) 40 -}}
{{- fail (printf "the release's name makes %s, which is longer than 40 characters; choose a shorter one" (include "oatmill.name" .)) -}}
{{- end -}}
{{- if and (gt (int $learner.pods) 1) (ne $learner.storage.accessMode "ReadWriteMany") -}}
{{- fail (printf "learner.pods=%d needs learner.storage.accessMode=ReadWriteMany, got %s; all ranks resume from one checkpoint" (int $learner.pods) $learner.storage.accessMode) -}}
{{- end -}}
{{- if and (gt (int $learner.gpus) 0) (ne (int $learner.gpus) (int $learner.ranksPerPod)) -}}
{{- fail (printf "learner.gpus is 0 or learner.ranksPerPod=%d, a GPU for each rank, got %d" (int $learner.ranksPerPod) (int $learner.gpus)) -}}
{{- end -}}
{{- if and (dig "evaluator" "enabled" false (.Values.run.config | default dict)) (not .Values.evaluator.enabled) -}}
{{- fail "run.config.evaluator.enabled=true needs evaluator.enabled=true of the chart, which starts the evaluator" -}}
{{- end -}}
{{- if and .Values.evaluator.enabled (eq $learner.storage.accessMode "ReadWriteOncePod") -}}
{{- fail "evaluator.enabled=true needs learner.storage.accessMode=ReadWriteOnce or ReadWriteMany, got ReadWriteOncePod, which one pod alone can mount" -}}
{{- end -}}
{{- with .Values.actor.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "actor.autoscaling.minReplicas=%d must be at most maxReplicas=%d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.dashboards.enabled (not .Values.monitoring.dashboards.files) -}}
{{- fail "monitoring.dashboards.enabled needs dashboards: --set-file monitoring.dashboards.files.health=deploy/grafana/dashboards/health.json, and the others alike" -}}
{{- end -}}
{{- $rule := .Values.monitoring.prometheusRule -}}
{{- if and $rule.enabled (not $rule.files) -}}
{{- fail "monitoring.prometheusRule.enabled needs rules: --set-file monitoring.prometheusRule.files.alerts=deploy/prometheus/rules/alerts.yml, and recording.yml alike" -}}
{{- end -}}
{{- if not .Values.insecure -}}
{{- range $role := list "server" "learner" "actor" -}}
{{- if not (index $.Values.keys $role) -}}
{{- fail (printf "keys.%s must name a Secret, made from `oatmill keygen DIR`; or say insecure=true" $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The same for every pod. */}}
{{- define "oatmill.pod" -}}
automountServiceAccountToken: false
{{- with include "oatmill.serviceAccount" . }}
serviceAccountName: {{ . }}
{{- end }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.podSecurity.uid }}
  runAsGroup: {{ .Values.podSecurity.uid }}
  fsGroup: {{ .Values.podSecurity.uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "oatmill.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Learner and evaluator share a volume, which pods of one node alone can mount, unless it is ReadWriteMany. The learner does not
     wait for the evaluator, but if it starts again, it should find the volume where the evaluator still has it. */}}
{{- define "oatmill.besideEachOther" -}}
{{- $other := dict "evaluator" "learner" "learner" "evaluator" | dig .role "" -}}
{{- if and $other .root.Values.evaluator.enabled (ne .root.Values.learner.storage.accessMode "ReadWriteMany") -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "oatmill.roleSelector" (dict "root" .root "role" $other) | fromYaml)) -}}
podAffinity:
  {{- if eq .role "evaluator" }}
  requiredDuringSchedulingIgnoredDuringExecution: {{- list $term | toYaml | nindent 4 }}
  {{- else }}
  preferredDuringSchedulingIgnoredDuringExecution: {{- list (dict "weight" 100 "podAffinityTerm" $term) | toYaml | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Where a role's pods run. A spread constraint without a labelSelector counts the role's own pods. */}}
{{- define "oatmill.scheduling" -}}
{{- $role := index .root.Values .role -}}
{{- with $role.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with merge (deepCopy $role.affinity) (include "oatmill.besideEachOther" . | fromYaml) }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- $own := dict "labelSelector" (dict "matchLabels" (include "oatmill.roleSelector" $ | fromYaml)) }}
  {{- range . }}
  - {{- merge (deepCopy .) (ternary dict $own (hasKey . "labelSelector")) | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- with $role.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $role.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "oatmill.environment" -}}
- {name: OATMILL_RECIPE, value: {{ .Values.run.recipe | quote }}}
- {name: OATMILL_PRESET, value: {{ .Values.run.preset | quote }}}
- {name: OATMILL_ADDRESS, value: "tcp://{{ include "oatmill.name" . }}-replay:7302"}
- {name: OATMILL__METRICS__HOST, value: "0.0.0.0"}
- {name: OATMILL__METRICS__PORT, value: "9464"}
{{- if not .Values.insecure }}
- {name: OATMILL_KEYS, value: /keys}
{{- end }}
{{- end -}}

{{- define "oatmill.mounts" -}}
- {name: config, mountPath: /etc/oatmill, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if not .Values.insecure }}
- {name: keys, mountPath: /keys, readOnly: true}
{{- end }}
{{- end -}}

{{- define "oatmill.volumes" -}}
- name: config
  configMap: {name: {{ include "oatmill.name" . }}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- end -}}

{{- define "oatmill.clientKeys" -}}
- name: keys
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end -}}

{{/* The annotations of a role's pods: a change of the run's settings starts them again. */}}
{{- define "oatmill.podAnnotations" -}}
oatmill/config: {{ toYaml .root.Values.run | sha256sum | trunc 16 | quote }}
{{- with (index .root.Values .role).annotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

// The shape of a dashboard's JSON, from the types of Grafana's own library. See test_grafana_schema.py.
import type { AnnotationQuery, Dashboard, FieldConfig, FieldConfigSource, GraphFieldConfig, Panel, RowPanel, TableFieldOptions, VariableModel } from '@grafana/schema';
import type * as bargauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// A type as JSON: a text in the place of an enumeration, and every field optional, because Grafana adds defaults.
type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]?: Json<T[K]> } : T;
type Of<Kind, Options, Custom> = Omit<Json<Panel>, 'type' | 'options' | 'fieldConfig'> & {
  type: Kind;
  options: Json<Options>;
  fieldConfig: { defaults: Omit<Json<FieldConfig>, 'custom'> & { custom?: Json<Custom> }; overrides: Json<FieldConfigSource>['overrides'] };
};
type Panels =
  | Json<RowPanel>
  | Of<'bargauge', bargauge.Options, {}>
  | Of<'stat', stat.Options, {}>
  | Of<'state-timeline', timeline.Options, timeline.FieldConfig>
  | Of<'table', table.Options, TableFieldOptions>
  | Of<'timeseries', timeseries.Options, GraphFieldConfig>;
// What the data source Prometheus adds.
type Annotation = Json<AnnotationQuery> & { expr: string; titleFormat: string; textFormat: string; useValueForTime: 'on' | false };
type Variable = Json<VariableModel> & { definition?: string };
export type Board = Omit<Json<Dashboard>, 'panels' | 'annotations' | 'templating'> & {
  annotations: { list: Annotation[] };
  panels: Panels[];
  templating: { list: Variable[] };
};

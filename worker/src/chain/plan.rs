//! The pinned plan of a chain with its input: which transaction runs where, with which arguments.

use std::collections::BTreeMap;

use rootward_proto::v1;
use rootward_schema::{BUILT_IN_PARAMETERS, Chain, Expression, OnFailure, Schema, Step, Target, Text, Wait};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::state::{Shape, StepShape, Task};

/// The most elements that a step may fan out to.
const MAX_ELEMENTS: usize = 1000;

/// A chain's definition with its input. It is pinned: a new version of the schema doesn't change it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub definition: Chain,
    pub input: BTreeMap<String, Text>,
    /// The root where the chain's row lies, and the outcomes of its waits.
    home: (String, String),
    /// By step: the list that it fans out over.
    lists: Vec<Option<Vec<Value>>>,
    /// What the peers of its steps must show of the reference data before a step runs; nothing if the start asked for nothing.
    pub min_reference_version: Option<i64>,
}

/// A plan as its row keeps it: the definition, and what the start asked for beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pinned {
    #[serde(flatten)]
    pub definition: Chain,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_reference_version: Option<i64>,
}

impl Pinned {
    /// The plan for this input.
    pub(crate) fn plan(self, input: BTreeMap<String, Text>, home: (String, String)) -> Result<Plan, PlanError> {
        Ok(Plan { min_reference_version: self.min_reference_version, ..Plan::new(self.definition, input, home)? })
    }
}

/// One transaction to run.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub transaction: String,
    pub entity: String,
    pub root_key: String,
    pub arguments: BTreeMap<String, Text>,
    /// A refusal parks the chain and leaves no outcome.
    pub parks_on_refusal: bool,
}

/// The first rows of the steps that are done.
pub(crate) type Results = BTreeMap<Task, BTreeMap<String, Text>>;

/// Why a plan can't be made or a step not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PlanError(pub String);

impl Plan {
    pub(crate) fn new(definition: Chain, input: BTreeMap<String, Text>, home: (String, String)) -> Result<Plan, PlanError> {
        let mut plan = Plan { definition, input, home, lists: Vec::new(), min_reference_version: None };
        for step in &plan.definition.steps {
            plan.lists.push(step.for_each.as_ref().map(|list| plan.list(step, list)).transpose()?);
        }
        if plan.lists.first().is_some_and(|list| list.as_ref().is_some_and(Vec::is_empty)) {
            return Err(PlanError(format!("step `{}` has nothing to run over: its list is empty", plan.definition.steps[0].name)));
        }
        Ok(plan)
    }

    fn list(&self, step: &Step, expression: &Expression) -> Result<Vec<Value>, PlanError> {
        let Expression::Parameter(name) = expression else {
            return Err(PlanError(format!("step `{}` fans out over something that is no parameter", step.name)));
        };
        let text = self.input.get(name).cloned().flatten().unwrap_or_else(|| "null".to_owned());
        match serde_json::from_str(&text) {
            Ok(Value::Array(list)) if list.len() <= MAX_ELEMENTS => Ok(list),
            Ok(Value::Array(list)) => Err(PlanError(format!("`{name}` has {} elements, the most is {MAX_ELEMENTS}", list.len()))),
            _ => Err(PlanError(format!("`{name}` is not a list"))),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        let steps = self.definition.steps.iter().zip(&self.lists).enumerate().map(|(at, (step, list))| StepShape {
            elements: list.as_ref().map_or(1, |list| u32::try_from(list.len()).unwrap_or(u32::MAX)),
            has_compensation: step.compensate.is_some(),
            is_pivot: step.is_pivot,
            keeps: step.on_failure == OnFailure::Keep,
            after: match &step.after {
                Some(after) => after.iter().filter_map(|before| usize::try_from(*before).ok()).collect(),
                None => at.checked_sub(1).into_iter().collect(),
            },
        });
        Shape::new(steps.collect())
    }

    /// What the step waits for, if it is a wait.
    pub(crate) fn wait(&self, task: Task) -> Option<&Wait> {
        self.step(task).and_then(|step| step.wait.as_ref())
    }

    /// A step by its name, with its place.
    pub(crate) fn step_named(&self, name: &str) -> Option<(u32, &Step)> {
        let at = self.definition.steps.iter().position(|step| step.name == name)?;
        Some((u32::try_from(at).ok()?, &self.definition.steps[at]))
    }

    /// `2/3 deposit`
    pub(crate) fn step_text(&self, task: Task) -> String {
        let name = self.step(task).map(|step| step.name.as_str()).unwrap_or_default();
        format!("{}/{} {name}", task.step + 1, self.definition.steps.len())
    }

    /// The root of a task.
    ///
    /// # Errors
    /// [`PlanError`] if its key can't be told from these results or is none of the schema's.
    pub(crate) fn root_of(&self, schema: &Schema, task: Task, results: &Results) -> Result<(String, String), PlanError> {
        let step = self.step(task).ok_or_else(|| PlanError(format!("there is no step {}", task.step + 1)))?;
        if step.wait.is_some() {
            return Ok(self.home.clone());
        }
        let root = schema.roots.get(&step.entity).ok_or_else(|| PlanError(format!("the schema has no root `{}` any more", step.entity)))?;
        let key = self.value(&step.root_key, task, results).map_err(PlanError)?;
        let key = key.ok_or_else(|| PlanError(format!("the root key of step `{}` is NULL", step.name)))?;
        let key = root.key_type.canonical(&key).map_err(|error| PlanError(error.to_string()))?;
        Ok((step.entity.clone(), key))
    }

    /// What a completed chain answers, as JSON; nothing if its definition names nothing.
    pub(crate) fn result(&self, results: &Results) -> Option<String> {
        if self.definition.result.is_empty() {
            return None;
        }
        let first = Task { step: 0, element: 0 };
        let values = self.definition.result.iter().map(|(name, expression)| {
            let text = self.value(expression, first, results).ok().flatten();
            (name.clone(), text.map_or(Value::Null, Value::String))
        });
        serde_json::to_string(&values.collect::<serde_json::Map<_, _>>()).ok()
    }

    pub(crate) fn step(&self, task: Task) -> Option<&Step> {
        self.definition.steps.get(usize::try_from(task.step).ok()?)
    }

    /// What runs for a task, by the schema in force.
    pub(crate) fn resolve(&self, schema: &Schema, task: Task, is_undo: bool, results: &Results) -> Result<Resolved, PlanError> {
        let step = self.step(task).ok_or_else(|| PlanError(format!("there is no step {}", task.step + 1)))?;
        if let Some(wait) = self.resolve_wait(task) {
            return Ok(wait);
        }
        let (call, args) = called(step, is_undo)?;
        let transaction =
            schema.transactions.get(call).ok_or_else(|| PlanError(format!("the schema has no transaction `{call}` any more")))?;
        let Target::Root { entity, parameter } = &transaction.target else {
            return Err(PlanError(format!("`{call}` writes reference data, which no chain can")));
        };
        let bad = |name: &str, why: String| PlanError(format!("step `{}`, argument `{name}`: {why}", step.name));
        let mut arguments = BTreeMap::new();
        for column in &transaction.parameters {
            let expression = if column.name == *parameter { Some(&step.root_key) } else { args.get(&column.name) };
            let expression = expression.ok_or_else(|| bad(&column.name, "it is missing".to_owned()))?;
            let value = self.value(expression, task, results).map_err(|why| bad(&column.name, why))?;
            let text =
                value.map(|text| column.r#type.canonical(&text)).transpose().map_err(|error| bad(&column.name, error.to_string()))?;
            arguments.insert(column.name.clone(), text);
        }
        let root_key = arguments.get(parameter).cloned().flatten().ok_or_else(|| bad(parameter, "the root key is NULL".to_owned()))?;
        let parks_on_refusal = self.parks_on_refusal(step, task, is_undo);
        Ok(Resolved { transaction: call.clone(), entity: entity.clone(), root_key, arguments, parks_on_refusal })
    }

    /// All tasks behind the first one, if none of them waits, or needs to know what another one answered; at most so many.
    pub(crate) fn others(&self, schema: &Schema, most: usize) -> Option<Vec<(Task, Resolved)>> {
        let shape = self.shape();
        let others: Vec<Task> = shape.all_tasks().skip(1).take(most + 1).collect();
        if others.is_empty() || others.len() > most || others.iter().any(|task| self.wait(*task).is_some()) {
            return None;
        }
        let resolve = |task| Some((task, self.resolve(schema, task, false, &Results::new()).ok()?));
        others.into_iter().map(resolve).collect()
    }

    /// Where a task's outcome lies, and under which name: all that is needed to ask for it or to write it without an effect. The
    /// plan knows it even if the schema has the transaction no more, or one with other parameters.
    pub(crate) fn place(&self, schema: &Schema, task: Task, is_undo: bool, results: &Results) -> Result<Resolved, PlanError> {
        let step = self.step(task).ok_or_else(|| PlanError(format!("there is no step {}", task.step + 1)))?;
        if let Some(wait) = self.resolve_wait(task) {
            return Ok(wait);
        }
        let (call, _) = called(step, is_undo)?;
        let (entity, root_key) = self.root_of(schema, task, results)?;
        let parks_on_refusal = self.parks_on_refusal(step, task, is_undo);
        Ok(Resolved { transaction: call.clone(), entity, root_key, arguments: BTreeMap::new(), parks_on_refusal })
    }

    fn parks_on_refusal(&self, step: &Step, task: Task, is_undo: bool) -> bool {
        is_undo || self.is_behind_pivot(task) || step.on_failure == OnFailure::Park
    }

    /// Where the outcome of a wait lies; none for a step that calls a transaction.
    pub(crate) fn resolve_wait(&self, task: Task) -> Option<Resolved> {
        let step = self.step(task).filter(|step| step.wait.is_some())?;
        let (entity, root_key) = self.home.clone();
        let parks_on_refusal = step.on_failure == OnFailure::Park || self.is_behind_pivot(task);
        Some(Resolved { transaction: String::new(), entity, root_key, arguments: BTreeMap::new(), parks_on_refusal })
    }

    /// Every step later in the list than the pivot comes after it: the check refuses steps beside it.
    fn is_behind_pivot(&self, task: Task) -> bool {
        self.definition.steps.iter().take(usize::try_from(task.step).unwrap_or(0)).any(|earlier| earlier.is_pivot)
    }

    fn value(&self, expression: &Expression, task: Task, results: &Results) -> Result<Text, String> {
        match expression {
            Expression::Literal(text) => Ok(Some(text.clone())),
            Expression::Parameter(name) => self.input.get(name).cloned().ok_or_else(|| format!("the chain has no parameter `{name}`")),
            Expression::Element(field) => {
                let list = usize::try_from(task.step).ok().and_then(|step| self.lists.get(step)).and_then(Option::as_ref);
                let element = list.and_then(|list| list.get(usize::try_from(task.element).ok()?)).ok_or("the step has no such element")?;
                match field {
                    None => Ok(text_of(element)),
                    Some(field) => {
                        element.get(field).map(text_of).ok_or_else(|| format!("element {} has no field `{field}`", task.element + 1))
                    }
                }
            }
            Expression::StepResult { step, column } => {
                let at = self
                    .definition
                    .steps
                    .iter()
                    .position(|other| other.name == *step)
                    .ok_or_else(|| format!("there is no step `{step}`"))?;
                let step_number = u32::try_from(at).unwrap_or(u32::MAX);
                let of = |element: u32| results.get(&Task { step: step_number, element });
                let row = of(task.element).or_else(|| of(0)).ok_or_else(|| format!("step `{step}` has no result"))?;
                row.get(column).cloned().ok_or_else(|| format!("the result of step `{step}` has no column `{column}`"))
            }
        }
    }
}

/// What a step calls in this direction, and with which arguments.
fn called(step: &Step, is_undo: bool) -> Result<(&String, &BTreeMap<String, Expression>), PlanError> {
    match (&step.compensate, is_undo) {
        (Some(compensation), true) => Ok((&compensation.call, &compensation.args)),
        (None, true) => Err(PlanError(format!("step `{}` has no compensation", step.name))),
        (_, false) => Ok((&step.call, &step.args)),
    }
}

fn text_of(value: &Value) -> Text {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The first row of a step's answer, by column.
pub(crate) fn first_row(response: &v1::CallResponse) -> BTreeMap<String, Text> {
    let values = response.rows.first().map(|row| row.values.as_slice()).unwrap_or_default();
    let texts = values.iter().map(|value| rootward_proto::from_wire(value, &rootward_schema::Type::Text).ok().flatten());
    response.columns.iter().map(|column| column.name.clone()).zip(texts).collect()
}

/// The id that a step's transaction sees as `:request_id`: one for each direction of each task, so that a compensation
/// never repeats its step's.
pub(crate) fn step_request_id(chain: Uuid, task: Task, is_undo: bool) -> Uuid {
    let direction = if is_undo { "undo" } else { "do" };
    Uuid::new_v5(&chain, format!("{}/{}/{direction}", task.step, task.element).as_bytes())
}

/// The built-in parameters by name; see [`BUILT_IN_PARAMETERS`].
pub(crate) fn built_in(request_id: Uuid, chain_id: Option<Uuid>, element: u32, issued_at: String) -> BTreeMap<&'static str, Text> {
    let values = [Some(request_id.to_string()), chain_id.map(|id| id.to_string()), Some(element.to_string()), Some(issued_at)];
    BUILT_IN_PARAMETERS.iter().map(|(name, _)| *name).zip(values).collect()
}

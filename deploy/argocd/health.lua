-- Health of ModelTier, EscalationPath and RoutingPolicy for Argo CD, as kstatus (and so Flux) sees them.
-- An outage does not make an object unhealthy: whether a tier answers now is its condition Available, and metrics.
if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "Being deleted" }
end
local status = obj.status or {}
-- The operator has not seen this spec yet.
if status.observedGeneration ~= nil and status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "Waiting for the operator" }
end
local function said(condition)
  return (condition.reason or "Unknown") .. ": " .. (condition.message or "")
end
local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end
local stalled, ready = found.Stalled, found.Ready
if stalled ~= nil and stalled.status == "True" then
  return { status = "Degraded", message = said(stalled) }
end
if ready == nil then
  return { status = "Progressing", message = "Waiting for the operator" }
end
if ready.status == "True" then
  return { status = "Healthy", message = said(ready) }
end
return { status = "Progressing", message = said(ready) }

// Medians from the histograms of Prometheus' text.

// Upper bounds and cumulative counts of a histogram without labels.
function buckets(text, name) {
  const line = new RegExp(`^${name}_bucket\\{le="([^"]+)"\\} (\\S+)$`, "gm");
  return [...text.matchAll(line)].map(([, bound, count]) => [bound === "+Inf" ? Infinity : Number(bound), Number(count)]);
}

// Linear inside the bucket that the median is in; null if nothing was observed.
export function median(text, name) {
  const found = buckets(text, name);
  const half = (found.at(-1)?.[1] ?? 0) / 2;
  if (half === 0) return null;
  let [from, under] = [0, 0];
  for (const [bound, count] of found) {
    if (count >= half) return bound === Infinity ? from : from + ((bound - from) * (half - under)) / (count - under);
    [from, under] = [bound, count];
  }
  return null;
}

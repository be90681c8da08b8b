// Ask a run: the form of each question is made from its fields.
import { api, at, attempt, button, copyable, field, h, poll, short } from "/static/lib.js";

/** The list of questions of a run, and the one that is asked. */
export async function ask(place, run) {
  const [questions, data] = await Promise.all([api(at("/api/questions", { run: run.key })), api("/api/data")]);
  const able = questions.filter((each) => !each.unable),
    not = questions.filter((each) => each.unable);
  const form = h("section.card.stack", { "aria-live": "polite" });
  const list = h(
    "div.questions",
    { role: "group", "aria-label": "Questions" },
    able.map((each) =>
      h(
        "button.question",
        {
          type: "button",
          "aria-pressed": "false",
          onclick: (e) => {
            for (const other of list.children) other.setAttribute("aria-pressed", String(other === e.currentTarget));
            open(each);
          },
        },
        h("b", {}, each.title),
        h("small", {}, each.sentence),
      ),
    ),
  );
  place.append(
    h(
      "div.ask",
      {},
      h(
        "div",
        {},
        list,
        not.length
          ? h(
              "details",
              {},
              h("summary.soft", {}, `${not.length} questions that it cannot be asked`),
              h(
                "ul",
                {},
                not.map((each) => h("li", {}, h("b", {}, each.title), ": ", each.unable)),
              ),
            )
          : null,
      ),
      form,
    ),
  );
  if (able.length) list.firstChild.click();

  function open(question) {
    const inputs = Object.fromEntries(question.fields.map((each) => [each.name, input(each, data)]));
    const seed = h("input", { type: "number", value: 0, step: 1 });
    const answer = h("div.stack");
    const go = button("Ask", start, { class: "primary" });
    form.replaceChildren(
      ...[
        h("h2", {}, question.title),
        h("p", {}, question.sentence),
        question.paper ? h("p", {}, h("small", {}, question.paper)) : null,
        h(
          "div.fields",
          {},
          question.fields.map((each) => field(each.name.replaceAll("_", " "), inputs[each.name], each.help)),
          field("seed", seed),
        ),
        h("p.row", {}, go),
        answer,
      ].filter(Boolean),
    );
    async function start() {
      const fields = {};
      for (const each of question.fields) {
        const node = inputs[each.name];
        const value = node.type === "checkbox" ? node.checked : node.value;
        if (value !== "" && value !== (each.default ?? "") && String(value) !== String(each.default))
          fields[each.name] = value;
      }
      const begun = await attempt(() =>
        api("/api/ask", { run: run.key, question: question.name, fields, seed: Number(seed.value || 0) }),
      );
      if (!begun) return;
      go.disabled = true;
      const bar = h("progress", { max: 1, "aria-label": "Progress" });
      answer.replaceChildren(
        bar,
        h(
          "p.row",
          {},
          button("Cancel", () => attempt(() => api(`/api/ask/${begun.task}/cancel`, {})), { class: "quiet" }),
        ),
      );
      poll(answer, 400, async () => {
        let now;
        try {
          now = await api(`/api/ask/${begun.task}`);
        } catch (error) {
          go.disabled = false;
          answer.replaceChildren(h("p.bad", {}, error.message));
          return false;
        }
        if (now.total && now.done) bar.value = Math.min(1, now.done / now.total);
        if (now.status === "running") return true;
        go.disabled = false;
        answer.replaceChildren(
          ...(now.status === "done"
            ? said(now, begun.task)
            : [h("p", { class: now.status === "failed" ? "bad" : "soft" }, now.error || "cancelled")]),
        );
        return false;
      });
    }
  }
}

function input(each, data) {
  const value = each.default ?? "";
  if (each.kind === "switch") return h("input", { type: "checkbox", checked: Boolean(value) });
  if (each.kind === "choice")
    return h(
      "select",
      {},
      each.choices.map((choice) => h("option", { value: choice, selected: choice === String(value) }, choice)),
    );
  if (each.kind === "data")
    return h(
      "select",
      {},
      h("option", { value: "" }, each.name === "images" ? "held-out images of its own data" : "choose a set"),
      data.sets.map((set) => h("option", { value: set.source }, set.source)),
    );
  if (each.kind === "whole" || each.kind === "number")
    return h("input", {
      type: "number",
      step: each.kind === "whole" ? 1 : "any",
      min: each.least,
      max: each.most,
      value,
      placeholder: value === "" ? "as it is" : "",
    });
  return h("input", { type: "text", value, maxLength: 300 });
}

/** An answer: what it says, its pictures, its numbers, its tables, and the command that gives the same. */
function said(now, task) {
  const answer = now.answer;
  const numbers = Object.entries(answer.numbers ?? {});
  return [
    answer.kind ? h("p", {}, h("span.kind", {}, answer.kind)) : null,
    ...(answer.reading ?? []).map((line) => h("p", {}, line)),
    answer.flag ? h("p.note", {}, answer.flag) : null,
    ...Object.keys(answer.figures ?? {}).map((name) =>
      h(
        "figure.answer",
        {},
        h("img", { src: at(`/api/ask/${task}/figure`, { name }), alt: `${answer.title}: ${name}` }),
        answer.caption ? h("figcaption", {}, answer.caption) : null,
      ),
    ),
    numbers.length
      ? h(
          "div.scroll",
          {},
          h(
            "table",
            {},
            h(
              "tbody",
              {},
              numbers.map(([name, each]) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, name.replaceAll("_", " ")),
                  h(
                    "td.num",
                    {},
                    `${short(each.value)}${each.error ? ` ± ${short(each.error, 2)}` : ""} ${each.unit ?? ""}`,
                  ),
                  h("td", {}, [each.kind, each.n ? `n = ${each.n}` : "", each.note].filter(Boolean).join(", ")),
                ),
              ),
            ),
          ),
        )
      : null,
    ...Object.entries(answer.tables ?? {}).map(([name, table]) =>
      h(
        "div.scroll",
        {},
        h(
          "table",
          {},
          h("caption", {}, name),
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              table.heads.map((head) => h("th", { scope: "col" }, head)),
            ),
          ),
          h(
            "tbody",
            {},
            table.rows.map((row) =>
              h(
                "tr",
                {},
                row.map((cell) => h("td", {}, cell)),
              ),
            ),
          ),
        ),
      ),
    ),
    h("p.soft", {}, "The same in a terminal:"),
    copyable(now.command),
  ].filter(Boolean);
}

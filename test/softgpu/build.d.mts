export const home: string;
export const buildFolder: string;
export const runner: string;
export function build(): void;
export function cudaTool(name: string): string | undefined;
export function compileToPtx(source: string, target: string, extra?: string[], architecture?: string): void;
